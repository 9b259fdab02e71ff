package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"example.org/odometer"
)

// AuditLogger keeps the log of who did what.
type AuditLogger interface {
	Note(ctx context.Context, by odometer.Actor, action odometer.Action, object, detail string) error
	FindAudit(ctx context.Context, q odometer.AuditQuery) ([]odometer.AuditRecord, error)
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
	Actor  string            `json:"actor"`    // the token's name then; "" for nobody who is known
	Remote string            `json:"remote"`   // address that the request came from
	Action odometer.Action   `json:"action"`
	Object string            `json:"object"` // what it was done to
	Detail string            `json:"detail"`
}

func (s *server) auditRoutes() []route {
	return []route{{
		pattern: "GET /api/v1/audit-log", access: administrator, handle: s.getAuditLog,
		id: "auditLog", tag: "access", summary: "Who did what, newest first",
		description: "Every change of tokens, users, organisations, members, hosts, consumers and owners, entries that were reversed, events that were released from quarantine. " +
			"What was refused is there too, summed up by the minute so that nobody fills the log: changes that were answered with 403 or 404 (`change.refused`), and tokens that are not known, by the address that they came from (`login.refused`). " +
			"Lines are added and never changed.",
		params: []*parameter{
			{name: "actor", most: odometer.MaxIDBytes, example: "admin", description: "only what this token's holder did: its name or id, or the id of its user"},
			{name: "action", most: odometer.MaxIDBytes, example: "token", description: "only this, such as token.create, or all that is done with what stands before the dot"},
			{name: "object", most: maxPathBytes, example: exampleToken, description: "only what was done to this"},
			{name: "from", kind: asMoment, example: "-24h", description: "only what was done from then on"},
			{name: "to", kind: asMoment, example: "2027-01-01", description: "only what was done before"},
			afterCursor, limitParam,
		},
		replies: []reply{answers(http.StatusOK, "One page.", AuditLogAnswer{}, nextPage)}, fails: missing,
	}}
}

func (s *server) getAuditLog(w http.ResponseWriter, r *http.Request) error {
	p := queryOf(r)
	q := odometer.AuditQuery{
		Limit: p.limit() + 1, Actor: p.text("actor"), Action: odometer.Action(p.text("action")), Object: p.text("object"),
		From: p.time("from", 0), To: p.time("to", 0),
	}
	if q.To != 0 {
		p.inOrder(q.From, q.To)
	}
	if err := p.done(); err != nil {
		return err
	}
	if after := p.text("after"); after != "" {
		q.Before, _ = strconv.ParseInt(after, 10, 64) // as it was sealed
	}
	if s.Audit == nil {
		return absent("accounts")
	}
	list, err := s.Audit.FindAudit(r.Context(), q)
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

// maxPathBytes is what the object of a line may have that is a path.
const maxPathBytes = 256

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
