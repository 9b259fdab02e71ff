package api

import (
	"context"
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

// AuditLogAnswer is the body of GET /api/v1/audit-log.
type AuditLogAnswer struct {
	Log  []AuditLine `json:"log"`  // newest first
	Next *string     `json:"next"` // cursor of the page that follows, null when there is none
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

func (s *server) auditRoutes() []route {
	return []route{{
		pattern: "GET /api/v1/audit-log", access: administrator, handle: s.getAuditLog,
		id: "auditLog", tag: "access", summary: "Who did what, newest first",
		description: "Tokens that were created and revoked, entries that were reversed, events that were released from quarantine. " +
			"Lines are added and never changed.",
		params: []*parameter{
			afterCursor, limitParam,
		},
		replies: []reply{answers(http.StatusOK, "One page.", AuditLogAnswer{}, nextPage)}, fails: missing,
	}}
}

func (s *server) getAuditLog(w http.ResponseWriter, r *http.Request) error {
	p := queryOf(r)
	limit, before := p.limit(), int64(0)
	if after := p.text("after"); after != "" {
		before, _ = strconv.ParseInt(after, 10, 64) // as it was sealed
	}
	if s.Audit == nil {
		return absent("accounts")
	}
	list, err := s.Audit.AuditLog(r.Context(), before, limit+1)
	if err != nil {
		return err
	}
	list, next := paged(w, r, list, func(l odometer.AuditRecord) string { return strconv.FormatInt(l.Number, 10) })
	answer := AuditLogAnswer{Log: []AuditLine{}, Next: next}
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
