package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/smtp"
	"net/textproto"
	"strings"
	"time"

	"example.org/odometer"
)

// SMTP says which server takes e-mail.
type SMTP struct {
	Addr string // host:port, "" for none
	From string // address that messages are from
	User string // "" to log in as nobody
	// Password of the user; it is given to nobody but the server, over TLS.
	Password string
	// Plain lets messages go without TLS to a server that offers none. The password
	// then is not given.
	Plain bool
	TLS   *tls.Config // whom the server is trusted by; the system's when nil
}

// subjectMost is how many characters of a message's subject are sent: what is said of one
// change, unless names are long. All of it is in the message.
const subjectMost = 200

// message writes an e-mail, RFC 5322. Its Message-ID is the delivery's id, so that who
// sees it twice can tell.
func message(s *SMTP, j *job, list []odometer.Violation, at time.Time) []byte {
	var b bytes.Buffer
	header := func(name, value string) {
		value = strings.Map(func(r rune) rune {
			if r == '\r' || r == '\n' || r == 0 {
				return ' '
			}
			return r
		}, value)
		fmt.Fprintf(&b, "%s: %s\r\n", name, value)
	}
	_, domain, _ := strings.Cut(s.From, "@")
	header("From", "<"+s.From+">")
	header("To", "<"+strings.Join(j.channel.To, ">, <")+">")
	header("Subject", mime.QEncoding.Encode("utf-8", clipped(headline(j, list), subjectMost)))
	header("Date", at.Format(time.RFC1123Z))
	header("Message-ID", fmt.Sprintf("<%s@%s>", j.id, domain))
	header("Auto-Submitted", "auto-generated")
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	q := quotedprintable.NewWriter(&b)
	q.Write([]byte(strings.Join(lines(j, list), "\r\n\r\n") + "\r\n")) // to memory
	q.Close()
	return b.Bytes()
}

// clipped is at most so many characters of a text.
func clipped(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

func (n *Notifier) sendEmail(ctx context.Context, j *job, list []odometer.Violation, r *result) error {
	s := &n.o.SMTP
	if s.Addr == "" {
		return errors.New("this server has no server for e-mail: start it with --smtp-addr")
	}
	err := s.send(ctx, j.channel.To, message(s, j, list, r.attempt.At))
	if p, ok := errors.AsType[*textproto.Error](err); ok {
		r.attempt.Status, r.attempt.Answer = p.Code, start([]byte(p.Msg))
		return fmt.Errorf("the mail server answered %d", p.Code)
	}
	if err == nil {
		r.attempt.Status = 250
	}
	return err
}

func (s *SMTP) send(ctx context.Context, to []string, text []byte) error {
	host, _, err := net.SplitHostPort(s.Addr)
	if err != nil {
		return err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c, err := smtp.NewClient(conn, host)
	if err != nil {
		return err
	}
	if starttls, _ := c.Extension("STARTTLS"); starttls {
		config := &tls.Config{}
		if s.TLS != nil {
			config = s.TLS.Clone()
		}
		config.ServerName, config.MinVersion = host, max(config.MinVersion, tls.VersionTLS12)
		if err := c.StartTLS(config); err != nil {
			return err
		}
	} else if !s.Plain {
		return errors.New("the mail server offers no STARTTLS, and nothing is sent without (--smtp-plain allows it)")
	}
	if s.User != "" {
		if _, secure := c.TLSConnectionState(); !secure {
			return errors.New("the mail server offers no STARTTLS, and the password is not given without")
		}
		if err := c.Auth(s.auth(c, host)); err != nil {
			return err
		}
	}
	if err := c.Mail(s.From); err != nil {
		return err
	}
	for _, a := range to {
		if err := c.Rcpt(a); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	c.Quit() // it has it, whatever it says now
	return nil
}

// auth returns PLAIN, or LOGIN where the server has nothing else.
func (s *SMTP) auth(c *smtp.Client, host string) smtp.Auth {
	_, mechanisms := c.Extension("AUTH")
	for m := range strings.FieldsSeq(mechanisms) {
		if strings.EqualFold(m, "PLAIN") {
			return smtp.PlainAuth("", s.User, s.Password, host)
		}
	}
	return &loginAuth{s.User, s.Password}
}

// loginAuth is LOGIN, which has no standard and many servers: the server asks for the
// name and then for the password.
type loginAuth struct{ user, password string }

func (a *loginAuth) Start(server *smtp.ServerInfo) (string, []byte, error) {
	if !server.TLS {
		return "", nil, errors.New("the password is not given without TLS")
	}
	return "LOGIN", nil, nil
}

func (a *loginAuth) Next(asked []byte, more bool) ([]byte, error) {
	switch question := strings.ToLower(string(asked)); {
	case !more:
		return nil, nil
	case strings.HasPrefix(question, "user"):
		return []byte(a.user), nil
	case strings.HasPrefix(question, "pass"):
		return []byte(a.password), nil
	}
	return nil, errors.New("the mail server asks for neither name nor password")
}
