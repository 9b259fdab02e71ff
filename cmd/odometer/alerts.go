package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/notify"
	"example.org/odometer/queue"
	"example.org/odometer/threshold"
)

// alertFlags say what thresholds and notifications are told. Without any they work.
type alertFlags struct {
	Thresholds       string   // YAML file of thresholds, "" for none
	NotifyAllow      []string // ranges inside that channels may lead to
	SMTPAddr         string   // host:port, "" for no e-mail
	SMTPFrom         string
	SMTPUser         string
	SMTPPasswordFile string
	SMTPPlain        bool
}

func (c *alertFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&c.Thresholds, "thresholds", "", "YAML file of thresholds; it is read again when it changes, and stands as it was read last where it is wrong")
	flags.StringSliceVar(&c.NotifyAllow, "notify-allow", nil, "range inside that channels may lead to, such as 10.1.0.0/16; may be repeated (default: none)")
	flags.StringVar(&c.SMTPAddr, "smtp-addr", "", "host:port of the server that takes e-mail for channels (default: no e-mail)")
	flags.StringVar(&c.SMTPFrom, "smtp-from", "", "address that e-mail is from")
	flags.StringVar(&c.SMTPUser, "smtp-user", "", "user that logs in there (default: nobody does)")
	flags.StringVar(&c.SMTPPasswordFile, "smtp-password-file", "", "file that holds the user's password")
	flags.BoolVar(&c.SMTPPlain, "smtp-plain", false, "send e-mail without TLS where that server offers none; a password is then not given")
}

// check returns everything that is wrong.
func (c *alertFlags) check() error {
	_, err := c.ranges()
	errs := []error{err}
	if c.SMTPAddr == "" {
		for flag, set := range map[string]bool{"smtp-from": c.SMTPFrom != "", "smtp-user": c.SMTPUser != "", "smtp-password-file": c.SMTPPasswordFile != "", "smtp-plain": c.SMTPPlain} {
			if set {
				errs = append(errs, fmt.Errorf("--%s is of a server for e-mail; --smtp-addr names none", flag))
			}
		}
		return errors.Join(errs...)
	}
	if host, port, err := net.SplitHostPort(c.SMTPAddr); err != nil || host == "" || port == "" {
		errs = append(errs, fmt.Errorf("--smtp-addr %q is no host:port", c.SMTPAddr))
	}
	if c.SMTPFrom == "" {
		errs = append(errs, errors.New("--smtp-from is needed with --smtp-addr: the address that e-mail is from"))
	} else {
		errs = append(errs, wrong("--smtp-from", odometer.ValidEmail(c.SMTPFrom)))
	}
	if (c.SMTPUser == "") != (c.SMTPPasswordFile == "") {
		errs = append(errs, errors.New("--smtp-user and --smtp-password-file go together"))
	}
	return errors.Join(errs...)
}

// ranges are those of --notify-allow.
func (c *alertFlags) ranges() (list []netip.Prefix, err error) {
	for _, text := range c.NotifyAllow {
		p, bad := netip.ParsePrefix(text)
		if bad != nil || p != p.Masked() {
			err = errors.Join(err, fmt.Errorf("--notify-allow %q is no range such as 10.1.0.0/16", text))
			continue
		}
		list = append(list, p)
	}
	return list, err
}

// smtp is the server for e-mail.
func (c *alertFlags) smtp() (s notify.SMTP, err error) {
	s = notify.SMTP{Addr: c.SMTPAddr, From: c.SMTPFrom, User: c.SMTPUser, Plain: c.SMTPPlain}
	s.Password, err = secretIn("file of the password", c.SMTPPasswordFile)
	return s, err
}

// alerts are thresholds, notifications and the stream of violations. They are beside
// metering: one that cannot be opened is absent and named by health, and one that fails
// holds nothing else up.
type alerts struct {
	thresholds *threshold.Thresholds // nil where they are absent
	notifier   *notify.Notifier      // the same
	stream     *queue.ViolationFeed  // the same
	noChecks   error                 // why there are no thresholds
	noChannels error                 // why there are no notifications
	logger     *slog.Logger
}

// openAlerts opens them beside the ledger. Only settings that are wrong are an error.
func (sv *server) openAlerts(ctx context.Context) error {
	c := &sv.config.alertFlags
	a := &alerts{logger: sv.logger}
	sv.alerts = a
	path := sv.dir.file(ledgerFile)
	running := &runningMachines{fleet: sv.fleet, interval: sv.config.Interval, started: sv.fleet.now()}
	var err error
	a.thresholds, err = threshold.Open(ctx, threshold.Options{
		Path: path, Ledger: sv.ledger, Owns: sv.ledger.Owns, Note: sv.accounts.NoteIn, Channels: a.held, Running: running.list, Ended: running.ended, File: c.Thresholds, Logger: sv.logger,
	})
	if err != nil {
		a.noChecks = err
		sv.logger.Error("serving without thresholds", "err", err)
	} else {
		sv.onClose(a.thresholds.Close)
		a.stream = queue.NewViolationFeed(sv.conn, a.thresholds)
	}
	o := notify.Options{
		Path: path, Entries: sv.ledger, Owns: sv.ledger.Owns, Note: sv.accounts.NoteIn, View: sv.accounts.ViewOf, Logger: sv.logger,
	}
	if a.thresholds != nil {
		o.Changes, o.Namer = a.thresholds, a.thresholds.NamerIn
	}
	if o.Allow, err = c.ranges(); err != nil {
		return misuse(err)
	}
	if o.SMTP, err = c.smtp(); err != nil {
		return err
	}
	if o.TLS, err = sv.config.trustFlags.config(); err != nil {
		return err
	}
	o.SMTP.TLS = o.TLS
	if o.Key, err = notifyKey(sv.dir.file(notifyKeyFile)); err == nil {
		a.notifier, err = notify.Open(ctx, o)
	}
	if err != nil {
		a.noChannels = err
		sv.logger.Error("serving without notifications", "err", err)
		return nil
	}
	sv.onClose(a.notifier.Close)
	return nil
}

// held refuses channels that a holder has not, in a transaction of thresholds.
func (a *alerts) held(ctx context.Context, tx *sql.Tx, holder odometer.Bound, list []odometer.ChannelID) error {
	if a.notifier == nil {
		return odometer.ThresholdProblem{Field: "channels", Why: "there are no notifications: " + a.noChannels.Error()}
	}
	return a.notifier.HeldIn(ctx, tx, holder, list)
}

// run starts what there is, in the order of the flow.
func (a *alerts) run(p *phase) {
	if a.thresholds != nil {
		p.run("thresholds", a.beside("thresholds", a.thresholds.Run))
		p.run("violations", a.beside("violations", a.stream.Run))
	}
	if a.notifier != nil {
		p.run("notifications", a.beside("notifications", a.notifier.Run))
	}
}

// beside has a stage that fails end alone: who fences the ledger ends the process by
// that.
func (a *alerts) beside(stage string, run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := run(ctx); err != nil && ctx.Err() == nil {
			a.logger.Error("a stage beside metering has ended", "stage", stage, "err", err)
		}
		<-ctx.Done()
		return nil
	}
}

// deps joins them to the API. What is absent is so there.
func (a *alerts) deps(d *api.Deps) {
	if a.thresholds != nil {
		d.Thresholds, d.Violations = a.thresholds, a.thresholds
	}
	if a.notifier != nil {
		d.Channels = channels{a.notifier}
	}
}

// facts are what health is computed from.
func (a *alerts) facts(f *api.Facts) {
	t, n := &api.ThresholdFacts{Absent: reason(a.noChecks)}, &api.NotificationFacts{Absent: reason(a.noChannels)}
	f.Thresholds, f.Notifications = t, n
	if a.thresholds != nil {
		st := a.thresholds.Stats()
		t.Enabled, t.Behind, t.Skipped, t.Resumed, t.Last = st.Thresholds, st.Behind, st.Skipped, st.Resumed, st.Last
		t.Err, t.File, t.Stream = reason(st.Err), reason(st.File), reason(a.stream.Stats().Err)
	}
	if a.notifier != nil {
		st := a.notifier.Stats()
		n.Waiting, n.Oldest, n.Dead, n.Open, n.Disabled, n.Missed, n.Err = st.Waiting, st.Oldest, st.Dead, st.Open, st.Disabled, st.Missed, st.Err
	}
}

// stats are the figures for /metrics.
func (a *alerts) stats(s *api.Stats) {
	if a.thresholds != nil {
		s.Thresholds = func() api.ThresholdStats {
			st := a.thresholds.Stats()
			return api.ThresholdStats{
				Enabled: st.Thresholds, Checked: st.Entries, Skipped: st.Skipped, Reached: st.Reached, Changes: st.Changes, Behind: st.Behind, Published: a.stream.Stats().Published,
			}
		}
	}
	if a.notifier != nil {
		s.Notifications = func() api.NotificationStats {
			st := a.notifier.Stats()
			out := api.NotificationStats{Waiting: st.Waiting, Dead: st.Dead, Open: st.Open}
			for c, n := range st.Attempts {
				result := "failed"
				if c.Delivered {
					result = "delivered"
				}
				out.Attempts = append(out.Attempts, api.AttemptCount{Kind: c.Kind, Result: result, Times: uint64(n)})
			}
			return out
		}
	}
}

// notifyKey reads the key that channels' secrets are sealed with, making it at the
// first use.
func notifyKey(path string) ([]byte, error) {
	text, err := readPrivate("key of notifications", path)
	if errors.Is(err, fs.ErrNotExist) {
		key := make([]byte, notify.KeyBytes)
		rand.Read(key) // never fails
		if err := writeFile(path, []byte(hex.EncodeToString(key)+"\n")); err != nil {
			return nil, fmt.Errorf("make the key of notifications: %w", err)
		}
		return key, nil
	}
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != notify.KeyBytes {
		return nil, advise(fmt.Errorf("%s holds no key", path), "put the right file there, or remove it: secrets of channels are then to be given anew")
	}
	return key, nil
}
