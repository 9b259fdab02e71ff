package api

import (
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
)

// Answers to GET are compressed where the client takes gzip and they are worth it,
// and no others: what tells a secret is the answer to a POST, and the length of what
// is compressed tells of what is in it.

// worthPacking is from how many bytes on an answer is compressed: less fits a packet.
const worthPacking = 1024

// packing returns a writer that compresses what is written to w where r's client
// takes it, or w.
func packing(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return w
	}
	w.Header().Add("Vary", "Accept-Encoding")
	if r.Method == http.MethodHead || !takesGzip(r) {
		return w
	}
	return &packer{ResponseWriter: w}
}

// takesGzip reports whether the header Accept-Encoding has gzip, or all, and does not
// exclude it.
func takesGzip(r *http.Request) bool {
	takes := false
	for _, line := range r.Header.Values("Accept-Encoding") {
		for _, part := range listed(line) {
			coding, params, err := mime.ParseMediaType(part)
			if err != nil {
				continue
			}
			switch yes := strings.Trim(params["q"], "0.") != "" || params["q"] == ""; coding {
			case "gzip", "x-gzip":
				return yes
			case "*":
				takes = yes
			}
		}
	}
	return takes
}

// packer compresses an answer once it is long enough.
type packer struct {
	http.ResponseWriter
	status  int    // 0 until the handler says it
	held    []byte // what is written while it is open whether to compress
	decided bool
	zip     *gzip.Writer // nil for what goes as it is
}

var zips = sync.Pool{New: func() any {
	zip, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // the level is one that there is
	return zip
}}

func (p *packer) WriteHeader(status int) {
	switch {
	case status < 200:
		p.ResponseWriter.WriteHeader(status)
	case p.status == 0:
		p.status = status
	}
}

func (p *packer) Write(b []byte) (int, error) {
	if p.status == 0 {
		p.status = http.StatusOK
	}
	if !p.decided {
		if len(p.held)+len(b) < worthPacking && p.packs() {
			p.held = append(p.held, b...)
			return len(b), nil
		}
		if err := p.decide(p.packs()); err != nil {
			return 0, err
		}
	}
	if p.zip != nil {
		return p.zip.Write(b)
	}
	return p.ResponseWriter.Write(b)
}

// packs reports whether the answer may be compressed: it is not already, and no
// stream whose events are to arrive one by one.
func (p *packer) packs() bool {
	h := p.Header()
	return h.Get("Content-Encoding") == "" && !strings.HasPrefix(h.Get("Content-Type"), "text/event-stream")
}

// decide begins the answer.
func (p *packer) decide(pack bool) error {
	p.decided = true
	if pack {
		h := p.Header()
		h.Set("Content-Encoding", "gzip")
		h.Del("Content-Length")
		if tag := h.Get("ETag"); strings.HasSuffix(tag, `"`) { // other bytes are another representation
			h.Set("ETag", strings.TrimSuffix(tag, `"`)+packedTag+`"`)
		}
		p.zip = zips.Get().(*gzip.Writer)
		p.zip.Reset(p.ResponseWriter)
	}
	p.ResponseWriter.WriteHeader(p.status)
	var err error
	if p.zip != nil {
		_, err = p.zip.Write(p.held)
	} else if len(p.held) > 0 {
		_, err = p.ResponseWriter.Write(p.held)
	}
	p.held = nil
	return err
}

// packedTag is the end of an ETag of what is compressed.
const packedTag = "-gzip"

// FlushError hands on what is written so far.
func (p *packer) FlushError() error {
	if p.status == 0 {
		p.status = http.StatusOK
	}
	if !p.decided {
		if err := p.decide(p.packs()); err != nil {
			return err
		}
	}
	if p.zip != nil {
		if err := p.zip.Flush(); err != nil {
			return err
		}
	}
	return http.NewResponseController(p.ResponseWriter).Flush()
}

// close completes the answer. One that breaks off is not closed.
func (p *packer) close() {
	if p.status != 0 && !p.decided {
		p.decide(false) // the client is gone when this fails
	}
	if p.zip != nil {
		p.zip.Close()
		p.zip.Reset(io.Discard)
		zips.Put(p.zip)
		p.zip = nil
	}
}

// Unwrap lets http.ResponseController reach the connection.
func (p *packer) Unwrap() http.ResponseWriter { return p.ResponseWriter }
