package inventory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"example.org/odometer"
	"github.com/digitalocean/go-libvirt"
)

// Where a libvirt daemon listens, under the root, in the order of trying: each
// daemon's read-only socket first, since nothing here changes anything, and
// the one for QEMU before the one that stands for all.
var libvirtSockets = [...]string{
	"run/libvirt/virtqemud-sock-ro",
	"run/libvirt/libvirt-sock-ro",
	"run/libvirt/virtqemud-sock",
	"run/libvirt/libvirt-sock",
}

const (
	// callPatience is how long libvirt may take for one answer. A list takes it
	// milliseconds, but it lists nobody while it ends a hypervisor: a second or
	// two, minutes where there is much memory and a device to give back.
	callPatience = 3 * time.Second
	// listPatience bounds a whole list.
	listPatience = 15 * time.Second
	// describedFor is how old a domain's description may get without an event
	// that something changed: virtual processors are plugged in without one. It
	// costs half a millisecond of processor time, most of it libvirt's.
	describedFor = time.Minute
	// sizedFor is the same for what a description does not have and costs more
	// to ask: the sizes of its disks that are no files or devices of the host.
	sizedFor = 5 * time.Minute

	// After a failure the daemon, or a domain, is left alone for a while that
	// doubles with each failure in a row.
	retryFirst = time.Second
	retryMost  = time.Minute

	// toldKept is how many changes wait to be received.
	toldKept = 256
)

// LibvirtOptions says where libvirt is: with a clock alone, the host's own.
type LibvirtOptions struct {
	Socket  string        // of the daemon; "" is the first that answers of those under Root/run/libvirt
	URI     string        // what to open there; "" is "qemu:///system"
	Root    string        // under which proc, sys and run are found; "" is "/"
	Run     string        // directory of the files with process ids; "" is Root/run/libvirt/qemu
	Timeout time.Duration // for one answer, and half of what a list takes for descriptions; 0 is 3 s
	Clock   Clock
	Logger  *slog.Logger // nil logs nothing
}

// Libvirt lists the domains of a libvirt daemon, those that run and those that
// are only defined. It is for knowing which machines there are and what became
// of them; it reads no counter.
//
// A list costs one call for the states of all domains, and one for each domain
// whose description is [describedFor] old or of which an event told; what of
// them takes too long in all waits for the next list. Nothing waits for longer
// than the timeout: the connection is then dropped and made again, at once for
// one domain that is too slow and after a while for a daemon that is.
//
// How large disks are that are files or devices of this host, and what a domain
// that is off has them laid over, their files and devices tell.
//
// List is called by one goroutine at a time. Problems and Close may be called
// from others meanwhile.
type Libvirt struct {
	opt  LibvirtOptions
	log  *slog.Logger
	host libvirtHost
	told chan odometer.Change
	gate chan struct{}   // see maxWaiting
	wait time.Duration   // see patience
	life context.Context // ends with Close
	end  context.CancelFunc

	// listing is held through a List and guards what follows.
	listing sync.Mutex
	conn    *libvirtConn // for calls, nil while there is none
	failure error        // why there is none
	retry   backoff
	known   map[libvirt.UUID]*knownDomain
	// Events have a connection of their own, which outlives a call that is not
	// answered: what happens meanwhile is told when the daemon goes on.
	ears    *libvirtConn // nil while there is none
	missing error        // events that cannot be had
	session int          // counts the connections for events: between two, events were lost

	mu       sync.Mutex
	heard    map[libvirt.UUID]bool // an event told of them since their last description
	problems []string              // of the last list
}

// knownDomain is what is remembered of a domain from list to list.
type knownDomain struct {
	vm        *odometer.VM // as its last description has it, nil before the first
	text      string       // that description
	described time.Time    // when; zero where that did not succeed since
	sizes     map[string]diskSize
	retry     backoff              // of the description
	problem   error                // with it, nil for none
	unsettled error                // what is missing in it, nil for nothing
	looks     map[string]*diskLook // at the files behind its disks, by path
	unseen    error                // what they did not tell, nil for nothing

	session   int   // in which it was listed last
	asked     int   // and described
	id        int32 // libvirt's own for a run, -1 while it is off
	state     odometer.State
	process   hypervisor // of this run; zero while it is not found
	lost      error      // why it is not
	defined   bool       // it was seen while it was off
	arriving  bool       // it is being started here, or comes from a host where it still runs
	migrating bool       // it comes from one
}

// backoff is when something may be tried again that failed.
type backoff struct {
	at   time.Time
	wait time.Duration
}

func (b *backoff) failed() {
	b.wait = min(max(2*b.wait, retryFirst), retryMost)
	b.at = time.Now().Add(b.wait)
}

func (b *backoff) due() bool { return !time.Now().Before(b.at) }

// NewLibvirt returns a source that connects with its first list.
func NewLibvirt(opt LibvirtOptions) *Libvirt {
	if opt.Root == "" {
		opt.Root = "/"
	}
	if opt.Run == "" {
		opt.Run = filepath.Join(opt.Root, "run/libvirt/qemu")
	}
	if opt.URI == "" {
		opt.URI = string(libvirt.QEMUSystem)
	}
	if opt.Timeout <= 0 {
		opt.Timeout = callPatience
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Libvirt{
		opt: opt, log: opt.Logger, host: libvirtHost{root: opt.Root, run: opt.Run},
		told: make(chan odometer.Change, toldKept), gate: make(chan struct{}, maxWaiting), wait: patience,
		known: map[libvirt.UUID]*knownDomain{}, heard: map[libvirt.UUID]bool{},
	}
	l.life, l.end = context.WithCancel(context.Background())
	return l
}

// Name is "libvirt".
func (l *Libvirt) Name() string { return "libvirt" }

// Told has what libvirt tells of its domains, as soon as it does, while there
// is a connection, and how the run of a domain ended that was found to be off.
// Each is a reason to list anew; only the list says what is. One of kind ""
// says nothing but that: devices and sizes are seen in the list. What is told
// may be told twice, and is lost where nobody receives, or while there is no
// connection. The channel is never closed.
func (l *Libvirt) Told() <-chan odometer.Change { return l.told }

// Problems says what was wrong with the last list that was handed out, a line
// each: domains that are too slow or cannot be read, whose last known
// description stands for them, processes that were not found, events that
// cannot be had.
func (l *Libvirt) Problems() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.problems
}

// Close ends the connection and a List that waits for it.
func (l *Libvirt) Close() error {
	l.end()
	l.listing.Lock()
	defer l.listing.Unlock()
	l.drop()
	l.deafen()
	return nil
}

// drop ends the connection for calls.
func (l *Libvirt) drop() {
	if l.conn != nil {
		l.conn.close()
		l.conn = nil
	}
}

// deafen ends the connection for events.
func (l *Libvirt) deafen() {
	if l.ears != nil {
		l.ears.close()
		l.ears = nil
	}
}

// List returns all domains, by instance. One whose description cannot be had
// is in it with what was last known, or with nothing but its name and state.
// An error says that nothing is known of any; it wraps [fs.ErrNotExist] where
// there is no libvirt on the host.
//
// A domain that is being started, or moved here from another host, is stopped
// until it runs here, and is not in the list where it was not before.
func (l *Libvirt) List(ctx context.Context) ([]odometer.VM, error) {
	l.listing.Lock()
	defer l.listing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	defer context.AfterFunc(l.life, cancel)()

	if err := l.connect(ctx); err != nil {
		return nil, err
	}
	records, err := ask(ctx, l, func(rpc *libvirt.Libvirt) ([]libvirt.DomainStatsRecord, error) {
		return rpc.ConnectGetAllDomainStats(nil, uint32(libvirt.DomainStatsState), 0)
	})
	if err != nil {
		return nil, l.failed(fmt.Errorf("list the domains of libvirt: %w", err))
	}
	l.retry = backoff{}

	var problems []string
	var vms []odometer.VM
	var domains []*knownDomain // of the same index
	boot := l.host.bootID()
	start, describing := time.Now(), true
	there := make(map[libvirt.UUID]bool, len(records))
	for i := range records {
		dom := records[i].Dom
		there[dom.UUID] = true
		k := l.known[dom.UUID]
		if k == nil {
			k = &knownDomain{id: -1}
			l.known[dom.UUID] = k
		}
		state, reason := stateOf(&records[i])
		l.follow(k, dom, state, reason)
		if describing && l.stale(k, dom) {
			switch err := l.describe(ctx, k, dom); {
			case libvirt.IsNotFound(err): // since the call for the states
				delete(there, dom.UUID)
				continue
			case errors.Is(err, errUnanswered):
				if err := l.connect(ctx); err != nil {
					problems = append(problems, oneLine(err))
					describing = false
				}
			}
			describing = describing && time.Since(start) < 2*l.opt.Timeout
		}
		k.session = l.session
		if !k.arriving || k.defined {
			vms, domains = append(vms, k.machine(dom, boot)), append(domains, k)
		}
	}
	l.lookAtDisks(domains)
	for i, k := range domains {
		vms[i].Disks = k.disks()
	}
	for i := range records {
		if k := l.known[records[i].Dom.UUID]; there[records[i].Dom.UUID] {
			for _, err := range [...]error{k.problem, k.unsettled, k.unseen, k.lost} {
				if err != nil {
					problems = append(problems, oneLine(err))
				}
			}
		}
	}
	for id := range l.known {
		if !there[id] {
			delete(l.known, id)
		}
	}
	if l.missing != nil {
		problems = append(problems, oneLine(l.missing))
	}
	slices.SortFunc(vms, func(a, b odometer.VM) int { return cmp.Compare(a.Instance, b.Instance) })

	l.mu.Lock()
	l.problems = problems
	for id := range l.heard {
		if !there[id] {
			delete(l.heard, id)
		}
	}
	l.mu.Unlock()
	return vms, nil
}

// connect makes the connections that there are not any more, when it is time to.
func (l *Libvirt) connect(ctx context.Context) error {
	if l.ears != nil && l.ears.gone() {
		l.deafen()
	}
	if l.conn != nil && l.conn.gone() {
		l.drop()
	}
	if l.conn != nil && l.ears != nil {
		return nil
	}
	if l.life.Err() != nil {
		return errors.New("list the domains of libvirt: the source is closed")
	}
	if !l.retry.due() {
		return fmt.Errorf("%w; to be tried again in %s", l.failure, time.Until(l.retry.at).Round(100*time.Millisecond))
	}
	sockets := []string{l.opt.Socket}
	if l.opt.Socket == "" {
		sockets = nil
		for _, s := range libvirtSockets {
			sockets = append(sockets, filepath.Join(l.opt.Root, s))
		}
	}
	var errs []error
	for _, socket := range sockets {
		if _, err := os.Stat(socket); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		err := l.open(ctx, socket)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
		if errors.Is(err, errUnanswered) {
			break // the other sockets are the same daemon's
		}
	}
	if errs == nil {
		return fmt.Errorf("connect to libvirt: none of %v: %w", sockets, fs.ErrNotExist)
	}
	return l.failed(errors.Join(errs...))
}

// open makes the connections that there are not to the daemon at socket.
func (l *Libvirt) open(ctx context.Context, socket string) (err error) {
	ctx, cancel := l.within(ctx)
	defer cancel()
	if l.ears == nil {
		ears, err := dialLibvirt(ctx, socket, l.opt.URI)
		if err != nil {
			return err
		}
		if l.missing, err = ears.listen(ctx, l.take); err != nil {
			ears.close()
			return err
		}
		l.ears = ears
		l.session++
		l.log.Debug("connected to libvirt", "socket", socket)
	}
	if l.conn == nil {
		l.conn, err = dialLibvirt(ctx, socket, l.opt.URI)
	}
	return err
}

// failed drops the connection for calls and remembers why.
func (l *Libvirt) failed(err error) error {
	l.drop()
	l.failure = err
	l.retry.failed()
	return err
}

// within bounds the wait for an answer.
func (l *Libvirt) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, l.opt.Timeout, fmt.Errorf("not within %s", l.opt.Timeout))
}

// ask makes one call, which has to be answered in time.
func ask[T any](ctx context.Context, l *Libvirt, f func(*libvirt.Libvirt) (T, error)) (T, error) {
	ctx, cancel := l.within(ctx)
	defer cancel()
	rpc := l.conn.rpc
	return call(ctx, l.conn, func() (T, error) { return f(rpc) })
}

// take is told each event.
func (l *Libvirt) take(event any) {
	dom, what, ok := meaning(event)
	if !ok {
		return
	}
	// Marked before it is told, so that the list which follows sees it.
	l.mu.Lock()
	l.heard[dom.UUID] = true
	l.mu.Unlock()
	l.hint(dom, what)
}

func (l *Libvirt) hint(dom libvirt.Domain, what saying) {
	c := odometer.Change{Instance: instanceOf(dom), Kind: what.kind, At: l.opt.Clock.Now(), Detail: what.detail}
	select {
	case l.told <- c:
	default: // what waits there already is reason enough to list anew
		l.log.Debug("a change of a domain was not received", "domain", dom.Name, "kind", what.kind, "detail", what.detail)
	}
}

// follow brings what is known of a domain to the state that it is in.
func (l *Libvirt) follow(k *knownDomain, dom libvirt.Domain, state libvirt.DomainState, reason int32) {
	before := k.state
	if dom.ID != k.id {
		k.id, k.process, k.lost = dom.ID, hypervisor{}, nil
		k.arriving, k.migrating = true, false
	}
	// On its way here it is paused for the migration until the other host gives
	// it up. One that leaves is paused so too, but it has run here.
	if k.arriving {
		coming := state == libvirt.DomainPaused && reason == int32(libvirt.DomainPausedMigration)
		k.migrating = k.migrating || coming
		k.arriving = coming || state == libvirt.DomainPaused && reason == int32(libvirt.DomainPausedStartingUp)
		if !k.arriving && k.migrating && dom.ID >= 0 {
			l.hint(dom, saying{odometer.ChangeMoved, "from another host"})
		}
	}
	if dom.ID < 0 {
		k.defined = true
		k.state = odometer.Stopped
		if before != odometer.Stopped && before != "" && k.session != l.session {
			l.hint(dom, shutoff[libvirt.DomainShutoffReason(reason)]) // its event was told to nobody
		}
		return
	}
	switch state {
	case libvirt.DomainPaused, libvirt.DomainPmsuspended, libvirt.DomainCrashed:
		k.state = odometer.Paused
	default:
		k.state = odometer.Running
	}
	if k.process.pid == 0 {
		k.process, k.lost = l.host.find(dom.Name, instanceOf(dom))
	} else if !l.host.alive(k.process) {
		// It is gone, and libvirt is about to notice.
		k.state = odometer.Stopped
	}
}

// stale reports whether a domain has to be described anew.
func (l *Libvirt) stale(k *knownDomain, dom libvirt.Domain) bool {
	l.mu.Lock()
	heard := l.heard[dom.UUID]
	l.mu.Unlock()
	return k.retry.due() && (heard || k.asked != l.session || time.Since(k.described) >= describedFor)
}

// describe asks for a domain's description. Where there is none that is the
// domain's problem, and what was known of it stands; the error is returned
// when the connection went with it.
func (l *Libvirt) describe(ctx context.Context, k *knownDomain, dom libvirt.Domain) error {
	// First the mark: an event that comes meanwhile is of something newer.
	l.mu.Lock()
	delete(l.heard, dom.UUID)
	l.mu.Unlock()
	k.asked = l.session
	err := l.read(ctx, k, dom)
	if err == nil {
		k.retry, k.problem = backoff{}, nil
		return nil
	}
	k.problem = fmt.Errorf("describe domain %s: %w", dom.Name, err)
	k.described = time.Time{}
	k.retry.failed()
	if errors.Is(err, errUnanswered) {
		l.drop()
	}
	return err
}

// machine is what the domain is now. One that arrives does not run yet.
func (k *knownDomain) machine(dom libvirt.Domain, boot string) odometer.VM {
	vm := odometer.VM{VCPUs: odometer.Unknown, Memory: odometer.Unknown}
	if k.vm != nil {
		vm = *k.vm
	}
	vm.Instance, vm.Name, vm.Source, vm.State = instanceOf(dom), dom.Name, "libvirt", k.state
	if k.arriving {
		vm.State = odometer.Stopped
	}
	switch {
	case vm.State == odometer.Stopped:
	case k.process.pid == 0:
		vm.Run = fmt.Sprintf("%s/domain/%d", boot, dom.ID)
	default:
		vm.Run = fmt.Sprintf("%s/%d/%d", boot, k.process.pid, k.process.start)
		vm.PID, vm.Began = k.process.pid, int64(k.process.start)*tickMicros
	}
	return vm
}

func instanceOf(dom libvirt.Domain) odometer.InstanceID {
	u := dom.UUID[:]
	return odometer.InstanceID(fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]))
}

// stateOf reads the state group of a domain's statistics; what is missing is 0.
func stateOf(r *libvirt.DomainStatsRecord) (state libvirt.DomainState, reason int32) {
	for _, p := range r.Params {
		v, _ := p.Value.I.(int32)
		switch p.Field {
		case libvirt.DomainStatsStateState:
			state = libvirt.DomainState(v)
		case libvirt.DomainStatsStateReason:
			reason = v
		}
	}
	return state, reason
}

// oneLine is an error as one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
