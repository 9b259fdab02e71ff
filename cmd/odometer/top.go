package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// topConfig is what `odometer top` is told.
type topConfig struct {
	serverFlags
	client.InstanceQuery
	Sort string
	Once bool
}

const (
	// topEvery is how often the server is asked: as often as agents sample.
	topEvery = time.Second
	// topMost is how many machines are looked at: what one page has, which a
	// server answers in some milliseconds.
	topMost = api.MaxPage
	// topPatience is how long an answer may take before the next try.
	topPatience = 10 * time.Second
	// topWidth is that of a frame where nobody knows how wide the screen is.
	topWidth = 80
)

func newTop(s streams) *cobra.Command {
	var c topConfig
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch hosts, machines and the pipeline",
		Long: `Watch hosts, machines and the pipeline, as they are each second.

  /  filter by any text of a machine    s  sort by the next column    r  turn it round
  ↑ ↓ PgUp PgDn Home End  move          q  quit

CPU is processors in use: 1.50 is one and a half. What is not known is -. On a
pipe, and with --once, it prints one frame.`,
		Example: `  odometer top
  odometer top --agent host-2 --sort out
  odometer top --once`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains(topKeys, c.Sort) {
				return misuse(fmt.Errorf("--sort %q: one of %s is possible", c.Sort, strings.Join(topKeys, ", ")))
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			name, _ := s.env("TERM")
			if c.Once || !s.outTTY || name == "dumb" {
				return topOnce(cmd.Context(), s, server, c)
			}
			return topLive(cmd.Context(), s, server, c)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&c.Sort, "sort", topKeys[0], "sort by "+strings.Join(topKeys, ", "))
	flags.StringVar(&c.Agent, "agent", "", "only machines on this host")
	flags.StringVar(&c.State, "state", "", "only machines in this state")
	flags.StringVar(&c.Attribute, "attribute", "", "only machines with this attribute, as key:value")
	flags.StringVar(&c.User, "user", "", "only machines of this user")
	flags.StringVar(&c.Org, "org", "", "only machines of this organisation")
	flags.BoolVar(&c.Once, "once", false, "print one frame and end")
	c.register(flags, s.env)
	cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(topKeys, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(api.InstanceStates, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// topAnswer is what the server said, once.
type topAnswer struct {
	at        time.Time
	status    api.Status
	instances api.InstancesAnswer
	err       error
}

// askTop asks the server.
func askTop(ctx context.Context, server *client.Client, q client.InstanceQuery) (a topAnswer) {
	ctx, cancel := context.WithTimeout(ctx, topPatience)
	defer cancel()
	q.Limit = topMost
	if a.status, a.err = server.Status(ctx); a.err == nil {
		a.instances, a.err = server.Instances(ctx, q)
		if isProblem(a.err, http.StatusNotFound) || isProblem(a.err, http.StatusServiceUnavailable) {
			// It has no list of machines, as health says, or is of before: hosts
			// and the pipeline are there.
			a.instances, a.err = api.InstancesAnswer{At: time.Now()}, nil
		}
	}
	a.at = time.Now()
	return a
}

// isProblem reports whether the server answered with a status.
func isProblem(err error, status int) bool {
	p, ok := errors.AsType[*api.Problem](err)
	return ok && p.Status == status
}

// topOnce prints one frame with everything in it.
func topOnce(ctx context.Context, s streams, server *client.Client, c topConfig) error {
	a := askTop(ctx, server, c.InstanceQuery)
	if a.err != nil {
		return a.err
	}
	t := newTopState(server.Server, c.Sort)
	t.take(a)
	width := topWidth
	if f, ok := s.out.(*os.File); ok && s.outTTY {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil {
			width = w
		}
	}
	_, err := fmt.Fprintln(s.out, strings.Join(t.frame(width, 0, false), "\n"))
	return err
}

// topLive shows frames until it is told to quit. However it ends, the terminal
// is as it was.
func topLive(ctx context.Context, s streams, server *client.Client, c topConfig) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP) // the others end ctx already
	defer stop()
	a := askTop(ctx, server, c.InstanceQuery)
	if a.err != nil { // wrongly called: a screen that vanishes would say nothing
		return a.err
	}
	m := &topModel{state: newTopState(server.Server, c.Sort), ask: func() tea.Msg { return askTop(ctx, server, c.InstanceQuery) }}
	m.state.take(a)
	p := tea.NewProgram(m, tea.WithOutput(s.out), tea.WithoutSignalHandler(), tea.WithEnvironment(os.Environ()))
	defer context.AfterFunc(ctx, p.Quit)()
	_, err := p.Run()
	if errors.Is(err, tea.ErrProgramPanic) {
		return fmt.Errorf("odometer top failed: %w", err)
	}
	return err
}

// topModel joins a topState to the terminal.
type topModel struct {
	state         *topState
	ask           func() tea.Msg
	width, height int
}

type topDue struct{}

func (m *topModel) Init() tea.Cmd { return m.later() }

func (m *topModel) later() tea.Cmd {
	return tea.Tick(topEvery, func(time.Time) tea.Msg { return topDue{} })
}

func (m *topModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case topDue:
		return m, m.ask
	case topAnswer:
		m.state.take(msg)
		return m, m.later()
	case tea.KeyPressMsg:
		switch m.state.key(msg.String(), msg.Text, m.height) {
		case topQuit:
			return m, tea.Quit
		case topSuspend:
			return m, tea.Suspend
		}
	case tea.PasteMsg:
		m.state.paste(msg.Content)
	}
	return m, nil
}

func (m *topModel) View() tea.View {
	v := tea.NewView("")
	if m.width > 0 && m.height > 0 {
		v.SetContent(strings.Join(m.state.frame(m.width, m.height, true), "\n"))
	}
	v.AltScreen = true
	v.WindowTitle = "odometer top"
	return v
}
