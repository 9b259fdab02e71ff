package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// console is the control line of a guest: its second serial port, at whose
// other end init.sh sits.
type console struct {
	conn net.Conn
	in   *bufio.Reader
	next int
}

func newConsole(c net.Conn) *console { return &console{conn: c, in: bufio.NewReader(c)} }

// ready waits for the line that init.sh begins with.
func (c *console) ready(deadline time.Time) error {
	c.conn.SetReadDeadline(deadline)
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		if line == "READY\n" {
			return nil
		}
	}
}

// run has the guest carry out a command, on one line of its shell, and
// returns what it printed and its exit status.
func (c *console) run(command string, deadline time.Time) (output string, status int, err error) {
	if strings.Contains(command, "\n") {
		return "", 0, errors.New("the command has more than one line")
	}
	c.next++
	id := strconv.Itoa(c.next)
	c.conn.SetDeadline(deadline)
	if _, err := io.WriteString(c.conn, id+" "+command+"\n"); err != nil {
		return "", 0, err
	}
	var b strings.Builder
	for {
		line, err := c.line()
		if err != nil {
			return b.String(), 0, err
		}
		if end, ok := strings.CutPrefix(line, "="+id+" "); ok {
			status, err := strconv.Atoi(strings.TrimSpace(end))
			return strings.TrimSuffix(b.String(), "\n"), status, err
		}
		b.WriteString(line)
	}
}

func (c *console) line() (string, error) {
	line, err := c.in.ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("the guest has ended: %w", err)
	}
	return line, err
}
