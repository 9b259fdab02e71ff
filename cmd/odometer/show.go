package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"example.org/odometer"
)

// absentText stands for a value that is unknown, which is not zero.
const absentText = "-"

// column is one column of a table: Title for a person, Name for a program, to
// which the values are given exactly.
type column struct {
	Title, Name string
	Number      bool
}

// cell is one value: Text for a person, Raw for a program.
type cell struct{ Text, Raw string }

func plain(s string) cell {
	if s == "" {
		s = absentText
	}
	return cell{s, s}
}

func instant(t time.Time) cell {
	if t.IsZero() {
		return plain("")
	}
	return cell{t.UTC().Format("2006-01-02 15:04:05"), t.UTC().Format(time.RFC3339Nano)}
}

// printList writes a list as [printTable] does, or tells a person that there is nothing
// in it.
func printList[T any](s streams, nothing string, columns []column, list []T, cells func(*T) []cell) error {
	if len(list) == 0 && s.outTTY && nothing != "" {
		_, err := fmt.Fprintln(s.out, nothing)
		return err
	}
	rows := make([][]cell, len(list))
	for i := range list {
		rows[i] = cells(&list[i])
	}
	return printTable(s.out, s.outTTY, columns, rows)
}

// printTable writes rows to w: aligned for a person, where one is looking, and
// otherwise one line of tab-separated exact values for each, under the names
// that the JSON form has for them.
func printTable(w io.Writer, tty bool, columns []column, rows [][]cell) error {
	if tty {
		return printAligned(w, columns, rows)
	}
	line := make([]string, len(columns))
	for i, c := range columns {
		line[i] = c.Name
	}
	if _, err := fmt.Fprintln(w, strings.Join(line, "\t")); err != nil {
		return err
	}
	return printBody(w, rows)
}

// printBody writes the lines of a table for a program.
func printBody(w io.Writer, rows [][]cell) error {
	clean := strings.NewReplacer("\t", " ", "\n", " ", "\r", " ")
	for _, row := range rows {
		line := make([]string, len(row))
		for i, c := range row {
			line[i] = clean.Replace(c.Raw)
		}
		if _, err := fmt.Fprintln(w, strings.Join(line, "\t")); err != nil {
			return err
		}
	}
	return nil
}

// printLines prints one line for each value of a single row, under the column's
// title for a person and its name for a program.
func printLines(s streams, columns []column, cells []cell) error {
	var b strings.Builder
	clean := strings.NewReplacer("\t", " ", "\n", " ", "\r", " ")
	for i, c := range cells {
		if s.outTTY {
			fmt.Fprintf(&b, "%-13s %s\n", strings.ToLower(columns[i].Title), printable(c.Text))
		} else {
			fmt.Fprintf(&b, "%s\t%s\n", columns[i].Name, clean.Replace(c.Raw))
		}
	}
	_, err := s.out.Write([]byte(b.String()))
	return err
}

func printAligned(w io.Writer, columns []column, rows [][]cell) error {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header = text.FormatUpper
	t.SetStyle(style)
	head := make(table.Row, len(columns))
	configs := make([]table.ColumnConfig, len(columns))
	for i, c := range columns {
		head[i] = c.Title
		configs[i] = table.ColumnConfig{Number: i + 1}
		if c.Number {
			configs[i].Align, configs[i].AlignHeader = text.AlignRight, text.AlignRight
		}
	}
	t.SetColumnConfigs(configs)
	t.AppendHeader(head)
	for _, row := range rows {
		line := make(table.Row, len(row))
		for i, c := range row {
			line[i] = printable(c.Text)
		}
		t.AppendRow(line)
	}
	for line := range strings.Lines(t.Render() + "\n") {
		if _, err := io.WriteString(w, strings.TrimRight(line, " \n")+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// printable takes out what could steer a terminal: values come from outside.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// printJSON writes v, indented.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// humanTime writes an amount of time in microseconds: "4.82 s", "3.41 h".
func humanTime(us float64) string {
	if us < 0 { // what a correction takes back
		return "-" + humanTime(-us)
	}
	switch s := us / odometer.SecondMicros; {
	case s < 600:
		return fmt.Sprintf("%.2f s", s)
	case s < 36000:
		return fmt.Sprintf("%.1f min", s/60)
	default:
		return fmt.Sprintf("%.1f h", s/3600)
	}
}

// humanBytes writes an amount of bytes: "0.4 MiB", "12.0 GiB".
func humanBytes(b float64) string {
	if b < 0 {
		return "-" + humanBytes(-b)
	}
	const kib, mib, gib, tib = 1 << 10, 1 << 20, 1 << 30, 1 << 40
	switch {
	case b < kib:
		return fmt.Sprintf("%.0f B", b)
	case b < 100*kib:
		return fmt.Sprintf("%.1f KiB", b/kib)
	case b < 1000*mib:
		return fmt.Sprintf("%.1f MiB", b/mib)
	case b < 1000*gib:
		return fmt.Sprintf("%.1f GiB", b/gib)
	default:
		return fmt.Sprintf("%.1f TiB", b/tib)
	}
}

// humanIntegral writes MiB-seconds as a person thinks of them: GiB-hours.
func humanIntegral(mibSeconds float64) string {
	return fmt.Sprintf("%.3f", mibSeconds/1024/3600)
}

// humanAmount writes a total of a quantity in that quantity's unit.
func humanAmount(q odometer.Quantity, total float64) string {
	switch q {
	case odometer.Memory, odometer.MemoryAllocated, odometer.Storage, odometer.StorageProvisioned:
		return humanIntegral(total)
	case odometer.NetworkEgress, odometer.NetworkIngress, odometer.DiskRead, odometer.DiskWrite:
		return humanBytes(total)
	default:
		return humanTime(total)
	}
}
