package odometer

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// ChannelKinds lists every kind of channel, in the order in which they are shown.
var ChannelKinds = []ChannelKind{ChannelWebhook, ChannelSlack, ChannelEmail, ChannelAlertmanager, ChannelLog}

// EventKinds lists what a webhook may be told.
var EventKinds = []EventKind{EventUsage, EventViolation}

// MaxRecipients bounds the addresses of one channel: it is for those who have to do
// with it, and not for a mailing.
const MaxRecipients = 10

// Valid returns nil for what may be a channel, and otherwise all that is wrong with it,
// each with the field named as in JSON. Whether its URL leads where it may is for
// who connects to it to say.
func (c *Channel) Valid() error {
	var errs []error
	add := func(field string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
		}
	}
	wrong := func(field, format string, args ...any) {
		add(field, fmt.Errorf(format+": %w", append(args, ErrInvalid)...))
	}
	add("name", ValidName(c.Name))
	if c.Holder.User != "" && c.Holder.Org != "" {
		wrong("user_id", "a channel is a user's or an organisation's, not both")
	}
	if !slices.Contains(ChannelKinds, c.Kind) {
		wrong("kind", "%.40q is none of %s", c.Kind, words(ChannelKinds))
	}
	hasURL := c.Kind == ChannelWebhook || c.Kind == ChannelSlack || c.Kind == ChannelAlertmanager
	switch {
	case hasURL && c.URL == "":
		wrong("url", "a channel of kind %s has one", c.Kind)
	case !hasURL && c.URL != "":
		wrong("url", "a channel of kind %s has none", c.Kind)
	}
	switch {
	case c.Kind == ChannelEmail && len(c.To) == 0:
		wrong("to", "no address is named")
	case c.Kind != ChannelEmail && len(c.To) > 0:
		wrong("to", "a channel of kind %s has no addresses", c.Kind)
	case len(c.To) > MaxRecipients:
		wrong("to", "there are %d addresses, at most %d are allowed", len(c.To), MaxRecipients)
	}
	for i, a := range c.To {
		add("to", validRecipient(a))
		if slices.Contains(c.To[:i], a) {
			wrong("to", "%s is named twice", a)
		}
	}
	switch {
	case c.Kind == ChannelWebhook && len(c.Events) == 0:
		wrong("event_types", "no event type is named; there are %s", words(EventKinds))
	case c.Kind != ChannelWebhook && len(c.Events) > 0:
		wrong("event_types", "a channel of kind %s has none", c.Kind)
	}
	for i, e := range c.Events {
		switch {
		case !slices.Contains(EventKinds, e):
			wrong("event_types", "%.40q is none of %s", e, words(EventKinds))
		case slices.Contains(c.Events[:i], e):
			wrong("event_types", "%q is named twice", e)
		}
	}
	if c.Kind == ChannelLog && c.Holder != (Bound{}) {
		wrong("kind", "the server's log is the operator's")
	}
	return errors.Join(errs...)
}

// recipient is an address as it may stand in a command of SMTP and in a header, without
// quotes: RFC 5321 has more, which nobody uses and parsers disagree about.
var recipient = regexp.MustCompile(`^[A-Za-z0-9.!#$%&'*+/=?^_{|}~-]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)

func validRecipient(s string) error {
	if err := ValidEmail(s); err != nil || s == "" || !recipient.MatchString(s) || strings.Contains(s, "..") {
		return fmt.Errorf("%.40q is no e-mail address: %w", HideSecrets(s), ErrInvalid)
	}
	return nil
}

// words lists what there is.
func words[T ~string](list []T) string {
	w := make([]string, len(list))
	for i, s := range list {
		w[i] = string(s)
	}
	return strings.Join(w, ", ")
}
