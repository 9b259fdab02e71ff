package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"example.org/odometer"
	"example.org/odometer/agent"
	"example.org/odometer/queue"
)

// hostOwners is what the server decided of whose the instances of this host are, and
// the file that remembers it while the server is away.
type hostOwners struct {
	agent.Owners
	path   string
	logger *slog.Logger
}

// openOwners reads what was told before. What cannot be read is told again.
func openOwners(path string, logger *slog.Logger) *hostOwners {
	o := &hostOwners{path: path, logger: logger}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return o
	}
	var list odometer.Owners
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err == nil {
		err = o.Take(list)
	}
	if err != nil {
		logger.Warn("whose the machines here are is not known until the server tells it", "err", err)
	}
	return o
}

// follow takes what the server tells until ctx is done. What cannot be written holds
// until the process ends.
func (o *hostOwners) follow(ctx context.Context, conn *queue.Conn) error {
	stop, err := conn.Owners(conn.Agent(), o.told)
	if err != nil {
		return fmt.Errorf("follow whose the machines here are: %w", err)
	}
	<-ctx.Done()
	stop()
	return nil
}

func (o *hostOwners) told(list odometer.Owners) {
	if err := o.Take(list); err != nil {
		o.logger.Warn("what the server tells of whose the machines here are is ignored", "err", err)
		return
	}
	text, err := json.Marshal(list)
	if err == nil {
		err = writeFile(o.path, append(text, '\n'))
	}
	if err != nil {
		o.logger.Warn("whose the machines here are cannot be noted", "err", err)
	}
}
