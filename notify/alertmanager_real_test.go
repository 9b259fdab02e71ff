package notify

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/odometer"
)

// missing skips a test that this machine cannot run, which under CI=true is a failure:
// there everything is provided.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("cannot run here, and under CI=true it has to: %s", why)
	}
	t.Skip(why)
}

// startAlertmanager starts a real one on loopback, which tells a receiver what it was told,
// and returns its URL. It is Debian's, as scripts/prepare unpacks it, which finds its
// templates in /usr/share alone: it is given one of its own.
func startAlertmanager(t *testing.T, receiver string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	unpacked := filepath.Join(cache, "odometer-test", "alertmanager")
	if _, err := os.Stat(unpacked); err != nil {
		missing(t, "run scripts/prepare: "+err.Error())
	}
	if os.Geteuid() != 0 {
		missing(t, "Alertmanager in a namespace takes root")
	}
	dir := t.TempDir()
	config := fmt.Sprintf(`{"route": {"receiver": "test", "group_by": ["..."], "group_wait": "0s", "group_interval": "100ms", "repeat_interval": "1h"},
		"receivers": [{"name": "test", "webhook_configs": [{"url": %q, "send_resolved": true}]}]}`, receiver)
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `mount --bind "$0/usr/share" /usr/share && exec "$0/usr/bin/prometheus-alertmanager" "$@"`, unpacked,
		"--config.file="+filepath.Join(dir, "config.yml"), "--storage.path="+dir, "--cluster.listen-address=", "--web.listen-address=127.0.0.1:0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	says, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		missing(t, "a namespace cannot be made: "+err.Error())
	}
	address, all := make(chan string, 1), make(chan string, 1)
	go func() {
		listens := regexp.MustCompile(`msg="?Listening on"? address=(\S+)`)
		var b strings.Builder
		for lines := bufio.NewScanner(says); lines.Scan(); {
			b.WriteString(lines.Text() + "\n")
			if m := listens.FindStringSubmatch(lines.Text()); m != nil {
				address <- m[1]
			}
		}
		close(address)
		all <- b.String()
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		said := <-all
		cmd.Wait()
		if t.Failed() {
			t.Logf("Alertmanager said:\n%s", said)
		}
	})
	select {
	case a, ok := <-address:
		if !ok {
			t.Fatal("Alertmanager has ended")
		}
		return "http://" + a
	case <-time.After(30 * time.Second):
		t.Fatal("Alertmanager does not listen")
		return ""
	}
}

// toldAlert is an alert as Alertmanager has it.
type toldAlert struct {
	alert
	Status json.RawMessage `json:"status"` // "firing" or "resolved" in a webhook, an object in its API
}

// TestARealAlertmanager: what fires there is what is open here, and it tells that it is
// resolved when it is.
func TestARealAlertmanager(t *testing.T) {
	hook := newReceiver(t, nil)
	url := startAlertmanager(t, hook.URL)
	w := newOffice(t, Options{})
	w.after(time.Since(w.now())) // an Alertmanager has the time of day
	c, _ := w.create(odometer.Channel{Kind: odometer.ChannelAlertmanager, URL: url})

	crossed := w.now().Add(-time.Minute).UnixMicro()
	vm, sum, back := violation("vm-1", 1, c.ID), violation("", 2, c.ID), violation("vm-3", 3, c.ID)
	vm.Name = `"Größe" {a="b"}` + "\n\t\\"
	sum.Sum, sum.Owner, sum.Resource = true, odometer.Owner{Org: "acme"}, ""
	for _, v := range []*odometer.Violation{&vm, &sum, &back} {
		v.Crossed, v.Changed = crossed, crossed
	}
	back.Standing = odometer.StandingRetracted // before it was told, at the moment at which it began
	w.log.add(vm, sum, back)
	w.rest()
	if a, err := w.Test(t.Context(), admin, c.ID); err != nil || a.Status != http.StatusOK {
		t.Errorf("a test: got %+v, %v", a, err)
	}
	if d := w.deliveries(c.ID, odometer.DeliveryDelivered); len(d) != 2 {
		t.Fatalf("got %+v delivered, want a list of three and a test; %+v wait", d, w.deliveries(c.ID, odometer.DeliveryWaiting))
	}
	firing := alertsOf(t, url)
	for _, v := range []*odometer.Violation{&vm, &sum} {
		got, want := firing[string(v.ID)], alertOf(v, w.now())
		if fmt.Sprint(got.Labels, got.Annotations) != fmt.Sprint(want.Labels, want.Annotations) || !sameMoment(got.StartsAt, want.StartsAt) || !sameMoment(got.EndsAt, want.EndsAt) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if len(firing) != 2 {
		t.Errorf("got %d alerts firing, want 2: %+v", len(firing), firing)
	}

	vm.Standing, vm.Change, vm.Changed = odometer.StandingRecovered, 2, w.now().UnixMicro()
	w.log.add(vm)
	w.rest()
	if firing = alertsOf(t, url); len(firing) != 1 || firing[string(sum.ID)].Labels == nil {
		t.Errorf("got %+v firing, want the sum's alone", firing)
	}
	for try := 0; ; try++ { // it tells what has changed after a while
		said := statuses(t, hook, string(vm.ID))
		if said == "firing resolved" {
			break
		}
		if try == 100 {
			t.Fatalf("Alertmanager tells of %s: %q, want firing and resolved", vm.ID, said)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func sameMoment(a, b string) bool {
	at, err := time.Parse(time.RFC3339Nano, a)
	bt, err2 := time.Parse(time.RFC3339Nano, b)
	return err == nil && err2 == nil && at.Truncate(time.Millisecond).Equal(bt.Truncate(time.Millisecond)) // it answers with these
}

// alertsOf reads which alerts of violations fire, by the violation.
func alertsOf(t *testing.T, url string) map[string]toldAlert {
	t.Helper()
	answer, err := http.Get(url + "/api/v2/alerts")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	var list []toldAlert
	if err := json.Unmarshal(body, &list); err != nil {
		t.Fatalf("got %s: %v", body, err)
	}
	found := map[string]toldAlert{}
	for _, a := range list {
		if a.Labels["alertname"] == "OdometerThreshold" {
			found[a.Labels["violation"]] = a
		}
	}
	return found
}

// statuses are what an Alertmanager told its receiver of a violation.
func statuses(t *testing.T, r *receiver, violation string) string {
	t.Helper()
	var all []string
	for _, g := range r.requests() {
		var told struct{ Alerts []toldAlert }
		if err := json.Unmarshal([]byte(g.body), &told); err != nil {
			t.Fatalf("got %s: %v", g.body, err)
		}
		for _, a := range told.Alerts {
			if a.Labels["violation"] == violation {
				all = append(all, strings.Trim(string(a.Status), `"`))
			}
		}
	}
	return strings.Join(all, " ")
}
