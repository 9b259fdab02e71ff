package notify

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http/httptest"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"example.org/odometer"
)

// TestSlack: a message that people read, with what Slack takes for markup escaped.
func TestSlack(t *testing.T) {
	w := newOffice(t, Options{})
	r := newReceiver(t, nil)
	c, _ := w.create(odometer.Channel{Kind: odometer.ChannelSlack, URL: r.URL + "/services/T0/B0/x"})
	v := violation("vm-1", 1, c.ID)
	v.Name = "<!channel> & co"
	w.log.add(v)
	w.rest()
	v.Standing, v.Value, v.Change = odometer.StandingRecovered, 12.3456, 2
	w.log.add(v)
	w.rest()
	got := r.requests()
	want := []string{
		`{"text":"&lt;!channel&gt; &amp; co: vm-1 has reached warning: cpu 91.25 %, limit 80 %, at 2026-11-27 10:00:01 UTC\nuser ada, organisation acme, threshold thr_abcdefghijklmnop: odometer violation show vio_vm-11"}`,
		`{"text":"Recovered: &lt;!channel&gt; &amp; co: vm-1 is at warning no longer: cpu 12.35 %, limit 80 %, at 2026-11-27 10:00:01 UTC\nuser ada, organisation acme, threshold thr_abcdefghijklmnop: odometer violation show vio_vm-11"}`,
	}
	if len(got) != 2 {
		t.Fatalf("got %+v, want 2", got)
	}
	for i, g := range got {
		var m, wanted map[string]string
		if err := errors.Join(json.Unmarshal([]byte(g.body), &m), json.Unmarshal([]byte(want[i]), &wanted)); err != nil || m["text"] != wanted["text"] || len(m) != 1 || g.path != "/services/T0/B0/x" {
			t.Errorf("got %s at %s, %v, want %s", g.body, g.path, err, want[i])
		}
	}
}

// TestTheLog: the operator's channel of kind log is the server's log, one line a change.
func TestTheLog(t *testing.T) {
	w := newOffice(t, Options{})
	c, _ := w.create(odometer.Channel{Kind: odometer.ChannelLog})
	w.log.add(violation("vm-1", 1, c.ID))
	w.rest()
	if _, err := w.Test(t.Context(), admin, c.ID); err != nil {
		t.Error(err)
	}
	text := w.texts.String()
	if !strings.Contains(text, "CPU of the web servers: vm-1 has reached warning: cpu 91.25 %") || !strings.Contains(text, "violation=vio_vm-11 change=1") || !strings.Contains(text, "Test of channel") {
		t.Errorf("got %q", text)
	}
}

// mailbox is a real SMTP server that keeps what it is sent.
type mailbox struct {
	*smtp.Server
	addr   string
	logins []string // how each logs in, in the order in which they are offered
	mu     sync.Mutex
	got    []letter
	refuse error // of what is sent
}

type letter struct {
	from string
	to   []string
	text string
	user string
	tls  bool
}

func newMailbox(t *testing.T, tlsConfig *tls.Config, logins ...string) *mailbox {
	t.Helper()
	m := &mailbox{logins: logins}
	m.Server = smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return &session{m: m, conn: c}, nil }))
	m.Domain, m.TLSConfig, m.AllowInsecureAuth = "localhost", tlsConfig, tlsConfig == nil
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.addr = l.Addr().String()
	done := make(chan struct{})
	go func() { defer close(done); m.Serve(l) }()
	t.Cleanup(func() { m.Close(); <-done })
	return m
}

type session struct {
	m    *mailbox
	conn *smtp.Conn
	l    letter
}

func (s *session) AuthMechanisms() []string { return s.m.logins }

func (s *session) Auth(mech string) (sasl.Server, error) {
	check := func(user, password string) error {
		if user != "odometer" || password != "s3cret" {
			return smtp.ErrAuthFailed
		}
		s.l.user = mech + " " + user
		return nil
	}
	if mech == sasl.Plain {
		return sasl.NewPlainServer(func(_, user, password string) error { return check(user, password) }), nil
	}
	return &loginServer{check: check}, nil
}

// loginServer is LOGIN as servers have it.
type loginServer struct {
	step  int
	user  string
	check func(user, password string) error
}

func (l *loginServer) Next(answer []byte) ([]byte, bool, error) {
	l.step++
	switch l.step {
	case 1:
		return []byte("Username:"), false, nil
	case 2:
		l.user = string(answer)
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(l.user, string(answer))
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error { s.l.from = from; return nil }
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "nobody@") {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user here"}
	}
	s.l.to = append(s.l.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	_, s.l.tls = s.conn.TLSConnectionState()
	s.l.text = string(b)
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.m.refuse != nil {
		return s.m.refuse
	}
	s.m.got = append(s.m.got, s.l)
	return nil
}

func (s *session) Reset()        { s.l = letter{user: s.l.user} }
func (s *session) Logout() error { return nil }

// certificate is one of a test's server, and the configuration of who trusts it.
func certificate(t *testing.T) (server, client *tls.Config) {
	s := httptest.NewTLSServer(nil)
	t.Cleanup(s.Close)
	return &tls.Config{Certificates: s.TLS.Certificates}, trust(s)
}

// TestEmail: over STARTTLS to a real server, logged in by what it offers; nothing of a name
// gets into the headers, and what the server refuses is on record.
func TestEmail(t *testing.T) {
	server, client := certificate(t)
	for _, login := range []string{sasl.Plain, sasl.Login} {
		t.Run(login, func(t *testing.T) {
			m := newMailbox(t, server, login)
			w := newOffice(t, Options{SMTP: SMTP{Addr: m.addr, From: "odometer@example.com", User: "odometer", Password: "s3cret", TLS: client}})
			c, _ := w.create(odometer.Channel{Kind: odometer.ChannelEmail, To: []string{"ada@example.com", "bob@example.org"}})
			v := violation("vm-1", 1, c.ID)
			v.Name = "Größe\r\nBcc: eve@example.com\r\n\r\n.\r\nQUIT"
			w.log.add(v)
			w.rest()
			if len(m.got) != 1 {
				t.Fatalf("got %+v, want 1: %+v", m.got, w.deliveries(c.ID, ""))
			}
			got := m.got[0]
			if got.from != "odometer@example.com" || !slices.Equal(got.to, c.To) || got.user != login+" odometer" || !got.tls {
				t.Errorf("got %+v", got)
			}
			msg, err := mail.ReadMessage(strings.NewReader(got.text))
			if err != nil {
				t.Fatal(err)
			}
			h := msg.Header
			subject, err := new(mime.WordDecoder).DecodeHeader(h.Get("Subject"))
			if err != nil || !strings.HasPrefix(subject, "Größe") || h.Get("Bcc") != "" || h.Get("To") != "<ada@example.com>, <bob@example.org>" {
				t.Errorf("got the headers %v, subject %q, %v", h, subject, err)
			}
			d := w.deliveries(c.ID, odometer.DeliveryDelivered)
			if len(d) != 1 || h.Get("Message-Id") != "<"+string(d[0].ID)+"@example.com>" || d[0].Last.Status != 250 {
				t.Errorf("got %+v and the message id %s, want that of the delivery", d, h.Get("Message-Id"))
			}

			m.mu.Lock()
			m.refuse = &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 2, 2}, Message: "mailbox full"}
			m.mu.Unlock()
			w.log.add(violation("vm-1", 2, c.ID))
			w.rest()
			d = w.deliveries(c.ID, odometer.DeliveryWaiting)
			if len(d) != 1 || d[0].Last.Status != 452 || d[0].Last.Err != "the mail server answered 452" || !strings.Contains(d[0].Last.Answer, "mailbox full") {
				t.Errorf("got %+v, want what the server answered", d)
			}
		})
	}
}

// TestEmailIsNotSentInTheClear: without STARTTLS nothing is sent, unless the operator
// allows it, and never the password; a certificate that is not trusted is none.
func TestEmailIsNotSentInTheClear(t *testing.T) {
	server, client := certificate(t)
	clear, secure := newMailbox(t, nil, sasl.Plain), newMailbox(t, server, sasl.Plain)
	for _, c := range []struct {
		name string
		smtp SMTP
		to   string
		want string // in the error, "" for delivered
	}{
		{"no STARTTLS", SMTP{Addr: clear.addr}, "ada@example.com", "offers no STARTTLS"},
		{"no STARTTLS, allowed", SMTP{Addr: clear.addr, Plain: true}, "ada@example.com", ""},
		{"no STARTTLS, allowed, with a password", SMTP{Addr: clear.addr, Plain: true, User: "odometer", Password: "s3cret"}, "ada@example.com", "the password is not given without"},
		{"a certificate that nobody trusts", SMTP{Addr: secure.addr}, "ada@example.com", "certificate"},
		{"a wrong password", SMTP{Addr: secure.addr, TLS: client, User: "odometer", Password: "wrong"}, "ada@example.com", "the mail server answered 535"},
		{"an unknown address", SMTP{Addr: secure.addr, TLS: client, User: "odometer", Password: "s3cret"}, "nobody@example.com", "the mail server answered 550"},
		{"nobody there", SMTP{Addr: "127.0.0.1:1"}, "ada@example.com", "refused"},
	} {
		c.smtp.From = "odometer@example.com"
		w := newOffice(t, Options{SMTP: c.smtp})
		ch, _ := w.create(odometer.Channel{Kind: odometer.ChannelEmail, To: []string{c.to}})
		a, err := w.Test(t.Context(), admin, ch.ID)
		if err != nil || (c.want == "") != (a.Err == "") || !strings.Contains(a.Err, c.want) || strings.Contains(a.Err+a.Answer, "s3cret") {
			t.Errorf("%s: got %+v, %v, want %q", c.name, a, err, c.want)
		}
	}
	if len(clear.got) != 1 || len(secure.got) != 0 {
		t.Errorf("got %d and %d letters, want 1 and none", len(clear.got), len(secure.got))
	}
}
