package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"

	"example.org/odometer"
	"example.org/odometer/internal/port"
)

// hook is what a webhook is sent to. What it was told lies in a file near the data, so
// that who plays on after a kill knows it, too.
type hook struct {
	url  string
	file string
	http http.Server
	// listener is closed first: the server knows it only once it serves.
	listener net.Listener

	mu    sync.Mutex
	wrong error // why the file does not have all
}

// listen runs the attempt's hook, at the address at which it was before, if it can be had.
func (a *attempt) listen() (*hook, error) {
	var l net.Listener
	before, err := os.ReadFile(a.near("hook.addr"))
	if err == nil {
		l, err = net.Listen("tcp", string(before))
	}
	if err != nil { // it was nowhere, or somebody has it: the channel is told where it is now
		addr, err := port.Free()
		if err == nil {
			err = os.WriteFile(a.near("hook.addr"), []byte(addr), 0o600)
		}
		if err == nil {
			l, err = net.Listen("tcp", addr)
		}
		if err != nil {
			return nil, err
		}
	}
	h := &hook{url: "http://" + l.Addr().String(), file: a.near("hook.txt"), listener: l}
	h.http.Handler = http.HandlerFunc(h.take)
	go h.http.Serve(l) // until it is closed
	return h, nil
}

func (h *hook) close() {
	h.listener.Close()
	h.http.Close()
}

func (h *hook) take(w http.ResponseWriter, r *http.Request) {
	var event struct{ ID string }
	if json.NewDecoder(r.Body).Decode(&event) != nil {
		return // the program was killed while it sent
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	f, err := os.OpenFile(h.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintf(f, "%s %s\n", event.ID, r.Header.Get("webhook-id"))
		err = errors.Join(err, f.Close())
	}
	h.wrong = errors.Join(h.wrong, err)
}

// told returns under which ids each change was told.
func (h *hook) told() (map[string]map[string]bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := map[string]map[string]bool{}
	f, err := os.Open(h.file)
	if errors.Is(err, fs.ErrNotExist) {
		return ids, h.wrong
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		change, delivery, _ := strings.Cut(lines.Text(), " ")
		if ids[change] == nil {
			ids[change] = map[string]bool{}
		}
		ids[change][delivery] = true
	}
	return ids, h.wrong
}

// watch has the hook told of two thresholds: of each event that comes late, and of what
// everybody used in a day. They are made once, however often they are asked for; where
// the hook is elsewhere than before, the channel is told so.
func watch(s *site, h *hook) error {
	about := fmt.Appendf(nil, `{"name":"hook","url":%q,"event_types":["threshold_violation"]}`, h.url)
	var list struct {
		Webhooks []struct{ ID string }
	}
	status, err := s.do(http.MethodGet, "/api/v1/webhooks", "", nil, &list)
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("list webhooks: status %d, %w", status, err)
	}
	var made struct{ ID string }
	if len(list.Webhooks) > 0 {
		made = list.Webhooks[0]
		status, err = s.do(http.MethodPut, "/api/v1/webhooks/"+made.ID, odometer.ContentJSON, about, nil, "If-Match", "*")
	} else {
		status, err = s.do(http.MethodPost, "/api/v1/webhooks", odometer.ContentJSON, about, &made)
	}
	if err != nil || status != http.StatusOK && status != http.StatusCreated {
		return fmt.Errorf("have the hook told: status %d, %w", status, err)
	}
	return errors.Join(
		s.once("/api/v1/thresholds", fmt.Sprintf(`{"name":"late","scope":{"instance_id":"late"},"resource":"cpu","condition":"period","unit":"seconds","levels":[{"name":"much","value":5}],"channels":[%q]}`, made.ID), "late", nil),
		s.once("/api/v1/thresholds", fmt.Sprintf(`{"name":"day","scope":{"all":true,"sum":true},"resource":"cpu","condition":"budget","every":"day","unit":"seconds","limit":100,"levels":[{"percent":50},{"percent":100}],"channels":[%q]}`, made.ID), "day", nil),
	)
}

// once creates something under a key, so that asked for again it is the same.
func (s *site) once(path, body, key string, into any) error {
	status, err := s.do(http.MethodPost, path, odometer.ContentJSON, []byte(body), into, "Idempotency-Key", key)
	if err != nil || status != http.StatusCreated {
		return fmt.Errorf("create %s: status %d, %w", key, status, err)
	}
	return nil
}

// alerted waits until what was recorded is told, and holds it to what there is to
// record: each level once for each time that it was reached, each change under one id.
func alerted(p *process, s *site, h *hook) (err error) {
	waits := p.until("everything that was recorded being told", func() bool {
		var told map[string]map[string]bool
		if told, err = h.told(); err != nil {
			return true
		}
		if err = s.delivered(told); err != nil {
			return true
		}
		var missing bool
		missing, err = s.untold(told)
		return err != nil || !missing
	})
	return errors.Join(err, waits)
}

// delivered adds what the server knows to have been told, before there was this hook.
func (s *site) delivered(told map[string]map[string]bool) error {
	var list struct {
		Webhooks []struct{ ID string }
	}
	if status, err := s.do(http.MethodGet, "/api/v1/webhooks", "", nil, &list); err != nil || status != http.StatusOK || len(list.Webhooks) != 1 {
		return fmt.Errorf("list webhooks: %d, status %d, %w", len(list.Webhooks), status, err)
	}
	var page struct {
		Deliveries []struct {
			ID    string `json:"id"`
			Event string `json:"event_id"`
		}
	}
	if status, err := s.do(http.MethodGet, "/api/v1/channels/"+list.Webhooks[0].ID+"/deliveries?state=delivered&limit=1000", "", nil, &page); err != nil || status != http.StatusOK {
		return fmt.Errorf("list deliveries: status %d, %w", status, err)
	}
	for _, d := range page.Deliveries {
		if told[d.Event] == nil {
			told[d.Event] = map[string]bool{}
		}
		told[d.Event][d.ID] = true
	}
	return nil
}

// untold reports whether something is recorded that was not told, or not recorded yet.
func (s *site) untold(told map[string]map[string]bool) (missing bool, err error) {
	var page struct {
		Violations []struct {
			ID        string `json:"violation_id"`
			Threshold string `json:"threshold_name"`
			Level     string `json:"level"`
			Crossed   string `json:"crossed_at"`
			From      string `json:"from"`
			Change    int    `json:"change"`
		}
		Next *string
	}
	if status, err := s.do(http.MethodGet, "/api/v1/violations?limit=1000", "", nil, &page); err != nil || status != http.StatusOK || page.Next != nil {
		return true, fmt.Errorf("list violations: status %d, %w", status, err)
	}
	records, changes, late, days := map[string]bool{}, map[string]bool{}, 0, 0
	for _, v := range page.Violations {
		key := v.Threshold + " " + v.Level + " "
		if v.Threshold == "late" {
			key += v.Crossed
			late++
		} else {
			key += v.From
			days++
		}
		if records[key] {
			return false, fmt.Errorf("%s is recorded twice", key)
		}
		records[key] = true
		for n := range v.Change {
			changes[fmt.Sprintf("%s.%d", v.ID, n+1)] = true
		}
	}
	for id := range changes {
		missing = missing || len(told[id]) == 0
	}
	for id, under := range told {
		if len(under) > 1 {
			return false, fmt.Errorf("change %s was told under several ids", id)
		}
		if !changes[id] {
			missing = true // it may be about to be recorded again
		}
	}
	return missing || late < 2 || days < 2, nil
}
