package notify

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"example.org/odometer"
	"example.org/odometer/internal/outward"
)

// attempt makes one attempt, within attemptWithin. ctx is done where the server ends.
func (n *Notifier) attempt(ctx context.Context, j *job) (r result) {
	r.job = j
	r.attempt.At = n.clock().UTC().Truncate(time.Microsecond)
	began := time.Now()
	defer func() { r.attempt.Latency = time.Since(began) }()
	within, cancel := context.WithTimeout(ctx, cmp.Or(n.o.within, attemptWithin))
	defer cancel()
	err := j.broken
	if err == nil {
		err = n.send(within, j, &r)
	}
	if err != nil {
		r.cancelled = ctx.Err() != nil && r.attempt.Status == 0
		r.attempt.Err = reason(err)
	}
	return r
}

func (n *Notifier) send(ctx context.Context, j *job, r *result) error {
	var list []odometer.Violation
	if j.kind == odometer.EventViolation {
		var err error
		if list, err = violations(j.body); err != nil {
			return err
		}
	}
	switch j.channel.Kind {
	case odometer.ChannelWebhook:
		return n.sendWebhook(ctx, j, list, r)
	case odometer.ChannelSlack:
		return n.sendSlack(ctx, j, list, r)
	case odometer.ChannelEmail:
		return n.sendEmail(ctx, j, list, r)
	case odometer.ChannelAlertmanager:
		return n.sendAlerts(ctx, j, list, r)
	case odometer.ChannelLog:
		n.writeLog(j, list)
		return nil
	}
	return fmt.Errorf("no channel is of kind %q", j.channel.Kind)
}

// reason is why an attempt failed, without the URL, which may be a secret, and without what
// it tells of the network in which this server is.
func reason(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if errors.Is(err, outward.ErrInside) {
		return "it leads to an address that is not on the public internet"
	}
	if d, ok := errors.AsType[*net.DNSError](err); ok && !d.IsTimeout {
		return "its name leads to no address"
	}
	if errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "Client.Timeout") {
		return "it did not answer in time"
	}
	return start([]byte(odometer.HideSecrets(err.Error())))
}

// userAgent is how requests name who makes them.
const userAgent = "odometer"

// post makes a request and reads the start of its answer into r.
func (n *Notifier) post(ctx context.Context, to string, header http.Header, body []byte, r *result) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return errors.New("its URL is none")
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", userAgent)
	res, err := n.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	r.attempt.Status = res.StatusCode
	text, err := io.ReadAll(io.LimitReader(res.Body, answerRead))
	r.attempt.Answer = start(text)
	switch {
	case res.StatusCode >= 200 && res.StatusCode <= 299:
		return nil // it has it, whatever becomes of the rest of its answer
	case res.StatusCode == http.StatusGone:
		r.gone = true
		return errors.New("it answered 410: it is there no more")
	case res.StatusCode >= 300 && res.StatusCode <= 399:
		return fmt.Errorf("it answered %d and would lead elsewhere, where nothing is sent: give the address that is meant", res.StatusCode)
	case res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusServiceUnavailable:
		r.wait = askedFor(res.Header.Get("Retry-After"), n.clock())
	}
	if err != nil {
		return fmt.Errorf("it answered %d and broke off", res.StatusCode)
	}
	return fmt.Errorf("it answered %d", res.StatusCode)
}

// askedFor reads for how long a receiver asks to be left alone: seconds or a date, RFC
// 9110, 10.2.3.
func askedFor(text string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), retryAfterMost)
}

// start is the start of an answer as text that can be shown: what is no text is left out,
// and what looks like a secret.
func start(b []byte) string {
	text := strings.ToValidUTF8(string(b[:min(len(b), 2*answerKept)]), "")
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, text)
	text = odometer.HideSecrets(text)
	return strings.ToValidUTF8(text[:min(len(text), answerKept)], "")
}
