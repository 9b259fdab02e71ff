package ledger

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"sync"
)

// statements are those by which questions are answered. Each is parsed once for
// each connection, not once for each question: to parse the few that a question
// takes is a sixth of its time. What changes from one question to the next is
// an argument and never part of a statement, so that there are few.
type statements struct {
	db *sql.DB

	mu sync.Mutex
	of map[string]*sql.Stmt
}

// reading is a transaction in which questions are answered from one commit.
type reading struct {
	*sql.Tx
	statements *statements
	missing    []string // statements that were not prepared yet
}

// begin opens a reading; whoever opens one ends it.
func (s *statements) begin(ctx context.Context) (*reading, error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	return &reading{Tx: tx, statements: s}, nil
}

// end gives the connection back, and only then prepares what was missing, which
// takes a connection too.
func (r *reading) end(ctx context.Context) {
	_ = r.Rollback() // nothing was written
	for _, query := range r.missing {
		stmt, err := r.statements.db.PrepareContext(ctx, query)
		if err != nil {
			return // the next question tries again
		}
		r.statements.mu.Lock()
		if r.statements.of[query] == nil {
			r.statements.of[query], stmt = stmt, nil
		}
		r.statements.mu.Unlock()
		if stmt != nil { // another question was faster
			stmt.Close()
		}
	}
}

func (r *reading) prepared(ctx context.Context, query string) *sql.Stmt {
	r.statements.mu.Lock()
	stmt := r.statements.of[query]
	r.statements.mu.Unlock()
	if stmt == nil {
		if !slices.Contains(r.missing, query) {
			r.missing = append(r.missing, query)
		}
		return nil
	}
	return r.StmtContext(ctx, stmt)
}

func (r *reading) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if stmt := r.prepared(ctx, query); stmt != nil {
		return stmt.QueryContext(ctx, args...)
	}
	return r.Tx.QueryContext(ctx, query, args...)
}

func (r *reading) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if stmt := r.prepared(ctx, query); stmt != nil {
		return stmt.QueryRowContext(ctx, args...)
	}
	return r.Tx.QueryRowContext(ctx, query, args...)
}

func (s *statements) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for _, stmt := range s.of {
		err = errors.Join(err, stmt.Close())
	}
	s.of = map[string]*sql.Stmt{} // a reading that is still open goes on without
	return err
}
