package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"example.org/odometer"
)

// AuditLogger keeps the log of who did what. Before is the number of a line, 0 for
// the newest on.
type AuditLogger interface {
	Note(ctx context.Context, by odometer.Actor, action odometer.Action, object, detail string) error
	AuditLog(ctx context.Context, before int64, limit int) ([]odometer.AuditRecord, error)
}

// AuditLogAnswer is the body of GET /api/v1/audit-log, newest first. Next is the
// cursor of the page that follows, null when there is none.
type AuditLogAnswer struct {
	Log  []AuditLine `json:"log"`
	Next *string     `json:"next"`
}

// AuditLine says who did something.
type AuditLine struct {
	At     time.Time         `json:"at"`
	Token  *odometer.TokenID `json:"token_id"` // null for the administrator's
	User   *odometer.UserID  `json:"user_id"`  // whose token it is; null for a service's
	Actor  string            `json:"actor"`    // the token's name then
	Remote string            `json:"remote"`   // address that the request came from
	Action odometer.Action   `json:"action"`
	Object string            `json:"object"` // what it was done to
	Detail string            `json:"detail"`
}

func (s *server) getAuditLog(w http.ResponseWriter, r *http.Request) error {
	p := queryOf(r, s.router.clock())
	after, limit := p.text("after"), p.number("limit", DefaultPage, MaxPage)
	before := int64(0)
	if after != "" {
		var err error
		if before, err = strconv.ParseInt(after, 10, 64); err != nil || before < 1 || strconv.FormatInt(before, 10) != after {
			p.fail("after", "%q is no cursor of this log", clip(after))
		}
	}
	if err := p.done(); err != nil {
		return err
	}
	if s.Audit == nil {
		return absent("accounts")
	}
	list, err := s.Audit.AuditLog(r.Context(), before, limit+1)
	if err != nil {
		return err
	}
	answer := AuditLogAnswer{Log: []AuditLine{}}
	if len(list) > limit {
		list = list[:limit]
		answer.Next = new(strconv.FormatInt(list[limit-1].Number, 10))
		w.Header().Add("Link", fmt.Sprintf("<%s>; rel=\"next\"", pageAfter(r.URL, *answer.Next)))
	}
	for _, l := range list {
		line := AuditLine{At: l.At, Actor: l.Actor, Remote: l.Remote, Action: l.Action, Object: l.Object, Detail: l.Detail}
		if l.Token != "" {
			line.Token = &l.Token
		}
		if l.User != "" {
			line.User = &l.User
		}
		answer.Log = append(answer.Log, line)
	}
	return writeJSON(w, http.StatusOK, answer)
}

// note writes into the audit log what the ledger has done. The ledger's journal
// says who decided it, too: where the log cannot be written the answer is still
// that it is done, and the server's own log has the line.
func (s *server) note(r *http.Request, action odometer.Action, object, detail string) {
	if s.Audit == nil {
		return
	}
	by := actor(r)
	// Whether the client still waits does not matter: it is done.
	if err := s.Audit.Note(context.WithoutCancel(r.Context()), by, action, object, detail); err != nil {
		s.router.logger.Error("the audit log lacks a line", "err", err, "actor", by.Caller.String(), "remote", by.Remote,
			"action", action, "object", object, "detail", odometer.HideSecrets(detail))
	}
}
