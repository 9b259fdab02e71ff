package ingest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"

	"example.org/odometer"
)

// Submit takes events that came over HTTP into the ledger and returns after
// the commit, with one result for each record in their order. Events of
// version 1.0 are counted apart for each source they name. An error means that
// nothing is known to be stored and the caller may send again; it wraps
// [odometer.ErrUnavailable] when that helps.
func (in *Ingest) Submit(ctx context.Context, records []odometer.Record) ([]odometer.Result, error) {
	if len(records) == 0 {
		return nil, nil
	}
	done := make(chan answer, 1)
	it := item{frames: frames(records), answer: done}
	select {
	case in.items <- it:
	case <-in.ended:
		return nil, fmt.Errorf("the server is stopping: %w", odometer.ErrUnavailable)
	case <-ctx.Done():
		return nil, fmt.Errorf("submit %d events: %w", len(records), ctx.Err())
	}
	select {
	case a := <-done:
		return a.results, a.err
	case <-in.ended:
		select {
		case a := <-done: // it was in the last commit
			return a.results, a.err
		default:
			return nil, fmt.Errorf("the server is stopping: %w", odometer.ErrUnavailable)
		}
	case <-ctx.Done():
		return nil, fmt.Errorf("submit %d events: %w", len(records), ctx.Err())
	}
}

// sender makes an agent id of a source: "http:" and the source, with what an
// id may not contain replaced and then told apart by a hash.
func sender(source string) odometer.AgentID {
	id := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || unicode.IsSpace(r) || strings.ContainsRune(`/"\<>`, r) {
			return '.'
		}
		return r
	}, strings.ToValidUTF8(source, "."))
	const most = 80
	if id != source || len(id) > most {
		sum := sha256.Sum256([]byte(source))
		id = strings.ToValidUTF8(id[:min(len(id), most)], "") + "~" + hex.EncodeToString(sum[:8])
	}
	return odometer.AgentID("http:" + id)
}

// frames packs records, in their order, into frames of one source each that
// stay within the limits.
func frames(records []odometer.Record) []odometer.Frame {
	var list []odometer.Frame
	size := 0
	for _, r := range records {
		source := ""
		if r.Event != nil {
			source = r.Event.Source
		}
		from := sender(source)
		n := len(r.AppendJSON(nil))
		if len(list) == 0 || list[len(list)-1].Agent != from || size+n > frameBytes {
			list = append(list, odometer.Frame{Agent: from})
			size = 0
		}
		last := &list[len(list)-1]
		last.Records = append(last.Records, r)
		size += n
	}
	return list
}
