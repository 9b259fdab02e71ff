package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"example.org/odometer/api"
)

// Stream tells entries as they are booked. It is read by one goroutine; whoever has
// one closes it.
type Stream struct {
	body  io.ReadCloser
	lines *bufio.Reader
	// Last is the cursor after everything that Next returned, or looked at: with it as
	// After, another stream goes on there.
	Last string
}

// Stream returns the entries that are booked after the cursor q.After, or from now on
// where that is "". Of q the times and the limit are not looked at.
func (c *Client) Stream(ctx context.Context, q EventQuery) (*Stream, error) {
	query := EventQuery{Instance: q.Instance, User: q.User, Org: q.Org, After: q.After}
	resp, err := c.stream(ctx, "/api/v1/usage/stream", query.values(), http.Header{"Accept": {"text/event-stream"}})
	if err != nil {
		return nil, err
	}
	return &Stream{body: resp.Body, lines: bufio.NewReaderSize(resp.Body, 64<<10), Last: q.After}, nil
}

// Close ends the stream.
func (s *Stream) Close() error { return s.body.Close() }

// Ready reports whether Next has something to return at once.
func (s *Stream) Ready() bool { return s.lines.Buffered() > 0 }

// Next returns the next entry, in its JSON form, nil where the server only says that it
// is there. The error is an [*api.Problem] where the server ends the stream for good,
// and another one where it ended and is to be gone on with after [Stream.Last].
func (s *Stream) Next() (json.RawMessage, error) {
	var kind, data, id string
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			return nil, err
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "event":
			kind = value
		case "data":
			data = value
		case "id":
			id = value
		}
	}
	if id != "" {
		s.Last = id
	}
	switch kind {
	case "entry":
		return json.RawMessage(data), nil
	case "end":
		var p api.Problem
		if err := json.Unmarshal([]byte(data), &p); err != nil {
			return nil, errors.Join(fmt.Errorf("the stream ends with %q", data), err)
		}
		return nil, &p
	}
	return nil, nil
}
