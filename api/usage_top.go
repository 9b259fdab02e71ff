package api

import (
	"net/http"
	"time"

	"example.org/odometer"
)

// TopAnswer is the body of GET /api/v1/usage/top.
type TopAnswer struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Of       string    `json:"of" schema:"enum=instance|user|org"`
	By       string    `json:"by"`       // what they have most of, as it was asked for
	Quantity string    `json:"quantity"` // the member of the rows that this is
	Rows     []Row     `json:"rows"`     // those with the most first; what is open is not in them
}

// topWords are what somebody may have most of, by the words of the parameter.
var topWords = []struct {
	word     string
	quantity odometer.Quantity
}{
	{"cpu", odometer.CPU}, {"vcpu", odometer.VCPU}, {"memory", odometer.Memory}, {"storage", odometer.Storage},
	{"egress", odometer.NetworkEgress}, {"ingress", odometer.NetworkIngress}, {"disk_read", odometer.DiskRead}, {"disk_write", odometer.DiskWrite},
	{"gpu", odometer.GPU}, {"gpu_busy", odometer.GPUBusy},
}

// TopWords are what GET /api/v1/usage/top goes by.
func TopWords() (words []string) {
	for _, w := range topWords {
		words = append(words, w.word)
	}
	return words
}

// topUnasked is how many rows are answered where no number is asked for.
const topUnasked = 10

func (s *server) topRoutes() []route {
	return []route{{
		pattern: "GET /api/v1/usage/top", access: reader, handle: s.getTop,
		id: "top", tag: "usage", summary: "Who used most",
		description: "Of what is recorded and the caller sees, by time of use. Without `from`: the 24 hours before `to`. Who has as much comes in the order of the ids.",
		params: []*parameter{
			{name: "by", kind: asWord, words: TopWords(), example: "memory", description: "what they have most of; cpu where it is absent"},
			{name: "of", kind: asWord, words: []string{"instance", "user", "org"}, example: "instance", description: "who they are; instances where it is absent"},
			{name: "n", kind: asNumber, least: 1, most: mostTop, standard: topUnasked, example: "3", description: "how many"},
			fromParam, toParam, instanceParam, userParam, orgParam, zoneParam, usageFields,
		},
		replies: []reply{answers(http.StatusOK, "Those with the most.", TopAnswer{})}, fails: missing,
	}}
}

func (s *server) getTop(w http.ResponseWriter, r *http.Request) error {
	if s.Usage == nil {
		return absent("ledger")
	}
	p, by := queryOf(r), topWords[0]
	for _, word := range topWords {
		if word.word == p.text("by") {
			by = word
		}
	}
	of := odometer.ByInstance
	if word := p.text("of"); word != "" {
		of = odometer.GroupBy(word)
	}
	q := odometer.UsageQuery{
		Instance: odometer.InstanceID(p.text("instance")),
		User:     odometer.UserID(p.text("user")),
		Org:      odometer.OrgID(p.text("org")),
		GroupBy:  []odometer.GroupBy{of},
		Top:      int(p.number("n")), TopBy: by.quantity,
	}
	q.From, q.To, q.Zone = p.spanIn(defaultSpan[odometer.ByNothing])
	if err := p.done(); err != nil {
		return err
	}
	rows, err := s.recorded(r, q)
	if err != nil {
		return err
	}
	return writeList(w, r, TopAnswer{
		From: instant(q.From), To: instant(q.To), Of: string(of), By: by.word, Quantity: by.quantity.String(), Rows: rows,
	}, "rows")
}
