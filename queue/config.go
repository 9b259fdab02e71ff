package queue

import (
	"fmt"
	"strings"

	"example.org/odometer"
	"github.com/nats-io/nats-server/v2/server"
)

// mainAccount has the streams on servers that are told by [Config]: $G cannot be
// configured there.
const mainAccount = "ODOMETER"

// Config returns what external NATS servers have to be told, for their
// configuration file to include, so that they let in the server, by its own key,
// and these hosts and consumers, and hold each to what the embedded server would.
// Those that are revoked are left out; servers that read it again disconnect them.
func Config(own odometer.Key, hosts []odometer.Host, consumers []odometer.Consumer) string {
	var b strings.Builder
	b.WriteString("accounts {\n")
	fmt.Fprintf(&b, "  %s {\n    jetstream: enabled\n    users: [\n      { nkey: %s }\n    ]\n    exports: [\n", mainAccount, own)
	writeExports(&b, hostsAccount, hostsTo, hostsFrom)
	writeExports(&b, readersAccount, readersTo, nil)
	b.WriteString("    ]\n  }\n")
	writeAccount(&b, hostsAccount, hostsTo, hostsFrom, func() {
		for i := range hosts {
			if h := &hosts[i]; h.Revoked.IsZero() {
				writeUser(&b, h.Key, agentPermissions(Token(string(h.Agent))))
			}
		}
	})
	writeAccount(&b, readersAccount, readersTo, nil, func() {
		for i := range consumers {
			if c := &consumers[i]; c.Revoked.IsZero() {
				writeUser(&b, c.Key, readerPermissions(string(c.ID)))
			}
		}
	})
	b.WriteString("}\n")
	return b.String()
}

func writeExports(b *strings.Builder, account string, to []passage, from []string) {
	for _, p := range to {
		answers := "single"
		if p.answers == server.Streamed {
			answers = "stream"
		}
		fmt.Fprintf(b, "      { service: %q, response: %s, accounts: [%s] }\n", p.subject, answers, account)
	}
	for _, subject := range from {
		fmt.Fprintf(b, "      { stream: %q, accounts: [%s] }\n", subject, account)
	}
}

func writeAccount(b *strings.Builder, account string, to []passage, from []string, users func()) {
	fmt.Fprintf(b, "  %s {\n    imports: [\n", account)
	for _, p := range to {
		fmt.Fprintf(b, "      { service: { account: %s, subject: %q } }\n", mainAccount, p.subject)
	}
	for _, subject := range from {
		fmt.Fprintf(b, "      { stream: { account: %s, subject: %q } }\n", mainAccount, subject)
	}
	b.WriteString("    ]\n    users: [\n")
	users()
	b.WriteString("    ]\n  }\n")
}

// writeUser writes who has a key. Neither a key nor the token of an id has a
// character in it that would end a string.
func writeUser(b *strings.Builder, key odometer.Key, p *server.Permissions) {
	list := func(subjects []string) string {
		for i := range subjects {
			subjects[i] = fmt.Sprintf("%q", subjects[i])
		}
		return strings.Join(subjects, ", ")
	}
	fmt.Fprintf(b, "      { nkey: %s, permissions: { publish: { allow: [%s] }, subscribe: { allow: [%s] } } }\n", key, list(p.Publish.Allow), list(p.Subscribe.Allow))
}
