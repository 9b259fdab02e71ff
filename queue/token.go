package queue

import (
	"fmt"
	"strings"

	"example.org/odometer"
)

// Streams and their subjects.
const (
	IngestStream    = "INGEST"
	UsageStream     = "USAGE"
	ViolationStream = "VIOLATIONS"

	ingestPrefix         = "odometer.ingest."
	usagePrefix          = "odometer.usage."
	violationPrefix      = "odometer.violation."
	receiptPrefix        = "odometer.receipt."
	receiptRequestPrefix = "odometer.receipt-request."
	livePrefix           = "odometer.live."
	ownersPrefix         = "odometer.owners."
	inboxPrefix          = "_INBOX."
)

const hexDigits = "0123456789ABCDEF"

// Token encodes an id as one token of a subject: ASCII letters, digits, "-"
// and "_" stand for themselves, every other byte is "=" and two upper-case
// hexadecimal digits. The empty id is "_", and the id "_" is "=5F". Different
// ids have different tokens, and no token contains a dot, a space or a
// wildcard.
func Token(id string) string {
	switch id {
	case "":
		return "_"
	case "_":
		return "=5F"
	}
	plain := true
	for i := range len(id) {
		plain = plain && plainByte(id[i])
	}
	if plain {
		return id
	}
	b := make([]byte, 0, len(id)+16)
	for i := range len(id) {
		if c := id[i]; plainByte(c) {
			b = append(b, c)
		} else {
			b = append(b, '=', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return string(b)
}

// ParseToken returns the id that [Token] encodes as the token. Anything that
// Token does not produce is an error wrapping [odometer.ErrInvalid].
func ParseToken(token string) (string, error) {
	if token == "_" {
		return "", nil
	}
	b := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		c := token[i]
		if plainByte(c) {
			b = append(b, c)
			continue
		}
		if c != '=' || len(token)-i < 3 {
			return "", fmt.Errorf("subject token %.200q: the byte at %d does not belong there: %w", token, i, odometer.ErrInvalid)
		}
		hi, lo := strings.IndexByte(hexDigits, token[i+1]), strings.IndexByte(hexDigits, token[i+2])
		if hi < 0 || lo < 0 {
			return "", fmt.Errorf("subject token %.200q: %q is not = and two hexadecimal digits: %w", token, token[i:i+3], odometer.ErrInvalid)
		}
		b = append(b, byte(hi<<4|lo))
		i += 2
	}
	if id := string(b); Token(id) == token {
		return id, nil
	}
	return "", fmt.Errorf("subject token %.200q is not how its id is encoded: %w", token, odometer.ErrInvalid)
}

func plainByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// IngestSubject returns the subject on which an agent's frames are published.
func IngestSubject(agent odometer.AgentID) string { return ingestPrefix + Token(string(agent)) }

// UsageSubject returns the subject under which an entry is published.
func UsageSubject(owner odometer.Owner, instance odometer.InstanceID) string {
	return usagePrefix + Token(string(owner.Org)) + "." + Token(string(owner.User)) + "." + Token(string(instance))
}

// ViolationSubject returns the subject under which what becomes of a violation is
// published. What it does not have, as the sum over an organisation has no user and no
// instance, is "_".
func ViolationSubject(v *odometer.Violation) string {
	return violationPrefix + Token(string(v.Owner.Org)) + "." + Token(string(v.Owner.User)) + "." + Token(string(v.Instance))
}

// agentOf returns the agent whose token follows the prefix in a subject.
func agentOf(subject, prefix string) (odometer.AgentID, error) {
	token, ok := strings.CutPrefix(subject, prefix)
	if !ok {
		return "", fmt.Errorf("subject %.200q does not begin with %s: %w", subject, prefix, odometer.ErrInvalid)
	}
	id, err := ParseToken(token)
	if err != nil {
		return "", err
	}
	if err := odometer.ValidID("agent", id); err != nil {
		return "", err
	}
	return odometer.AgentID(id), nil
}
