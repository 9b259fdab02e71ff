package main

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

// exportFigures are those of what streams out of the API.
func exportFigures() []figure {
	return []figure{{"export", exportRate}, {"events_user", eventsOfUser}}
}

// exports are what is exported, and the rows of the ledger of which it is made.
var exports = []struct{ name, path, bare string }{
	{"export_usage", "/api/v1/usage?group_by=instance,day&format=", `SELECT days FROM months`},
	{"export_events", "/api/v1/events?format=", `SELECT body, result FROM journal`},
}

// exportRate measures how many rows a second the real server exports of the history,
// to a client that takes them as they come, uncompressed. The limit is to read what
// they are made of, row by row, and to do nothing with it.
func exportRate(b *bench) error {
	program, err := b.program()
	if err != nil {
		return err
	}
	history, err := b.historyPath()
	if err != nil {
		return err
	}
	dir := b.place("data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(dir, "ledger.db"), history); err != nil {
		return err
	}
	p, err := serving(program, dir)
	if err != nil {
		return err
	}
	defer p.kill()
	idle, err := p.peak()
	if err != nil {
		return err
	}
	f := b.history()
	span := url.Values{
		"from": {time.UnixMicro(historyStart).UTC().Format(time.RFC3339)},
		"to":   {time.UnixMicro(historyStart + int64(f.days)*odometer.DayMicros).UTC().Format(time.RFC3339)},
	}.Encode()
	for _, x := range exports {
		rows := 0
		begin := time.Now()
		bare, err := scan(history, x.bare)
		bareTook := time.Since(begin)
		if err != nil {
			return fmt.Errorf("bare SQLite: %w", err)
		}
		for _, form := range []string{"ndjson", "csv"} {
			begin := time.Now()
			if rows, err = p.export(x.path + form + "&" + span); err != nil {
				return err
			}
			if form == "csv" {
				rows-- // the titles
			}
			if rows < f.instances*f.days {
				return fmt.Errorf("%s: got %d rows, want %d of each day at least", x.name, rows, f.instances)
			}
			b.rate(x.name+"_"+form, float64(rows)/time.Since(begin).Seconds(), "rows/s", float64(rows)/bareTook.Seconds())
		}
		b.note("%s: %d rows of %d in the ledger", x.name, rows, bare)
	}
	most, err := p.peak()
	if err != nil {
		return err
	}
	b.cost("export_memory", float64(most>>20), "MiB", float64(idle>>20))
	return nil
}

// export reads an export to its end and returns how many lines it has.
func (p *process) export(path string) (lines int, err error) {
	token, err := p.token()
	if err != nil {
		return 0, err
	}
	r, err := http.NewRequest(http.MethodGet, "http://"+p.http+path, nil)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Accept-Encoding", "identity")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: %s", path, resp.Status)
	}
	in := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		_, err := in.ReadSlice('\n')
		switch {
		case err == nil:
			lines++
		case errors.Is(err, io.EOF):
			return lines, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return lines, err
		}
	}
}

// scan reads all rows of a question to SQLite, and does nothing with them.
func scan(path, query string) (n int, err error) {
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro")
	if err != nil {
		return 0, err
	}
	defer db.Close()
	rows, err := db.Query(query)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return 0, err
	}
	into := make([]any, len(columns))
	for i := range into {
		into[i] = new(sql.RawBytes)
	}
	for ; rows.Next(); n++ {
		if err := rows.Scan(into...); err != nil {
			return n, err
		}
	}
	return n, rows.Err()
}

// eventsOfUser measures a page of a user's entries, and the answer to a user who has
// none. The limit, which is to be far above, is to read the journal, in which both lie.
func eventsOfUser(b *bench) error {
	path, err := b.historyPath()
	if err != nil {
		return err
	}
	begin := time.Now()
	if _, err := scan(path, `SELECT body, result FROM journal`); err != nil {
		return err
	}
	journal := time.Since(begin)
	ctx := context.Background()
	f := b.history()
	led, err := ledger.Open(ctx, ledger.Options{Path: path, Clock: func() time.Time { return time.UnixMicro(f.now()) }})
	if err != nil {
		return err
	}
	defer led.Close()
	for _, c := range []struct {
		name string
		q    odometer.EntryQuery
		want int
	}{
		{"events_user_day", odometer.EntryQuery{User: f.user(f.users() - 1), From: historyStart + odometer.DayMicros, To: historyStart + 2*odometer.DayMicros, Limit: 50}, 50},
		{"events_user_none", odometer.EntryQuery{User: "nobody", Limit: 100}, 0},
	} {
		took, err := median(b.repeats(), func() error {
			list, _, err := led.Entries(ctx, c.q)
			if err == nil && len(list) != c.want {
				err = fmt.Errorf("%d entries, want %d", len(list), c.want)
			}
			return err
		})
		if err != nil {
			return err
		}
		b.cost(c.name, took.Seconds()*1000, "ms", journal.Seconds()*1000)
	}
	return nil
}
