package notify

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"example.org/odometer"
)

// KeyBytes is how long the key is that secrets are sealed with.
const KeyBytes = 32

// errSealed says that a secret cannot be read, as after a restore beside another key.
var errSealed = errors.New("its secret was sealed with another key than the one in the data directory: give it a new one (rotate), or the URL again")

// sealer keeps secrets at rest: AES-256-GCM with a random nonce before the text, bound
// to the channel and the purpose.
type sealer struct{ aead cipher.AEAD }

func newSealer(key []byte) (*sealer, error) {
	if len(key) != KeyBytes {
		return nil, fmt.Errorf("the key for secrets has %d bytes, not %d", len(key), KeyBytes)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &sealer{aead}, nil
}

func (s *sealer) close(channel odometer.ChannelID, purpose, text string) []byte {
	return s.aead.Seal(nil, nil, []byte(text), []byte(string(channel)+"/"+purpose))
}

func (s *sealer) open(channel odometer.ChannelID, purpose string, sealed []byte) (string, error) {
	text, err := s.aead.Open(nil, nil, sealed, []byte(string(channel)+"/"+purpose))
	if err != nil {
		return "", errSealed
	}
	return string(text), nil
}

// What a secret is for.
const (
	purposeSign   = "sign"   // of a webhook
	purposeURL    = "url"    // of Slack's: who has it can write there
	purposeBearer = "bearer" // of an Alertmanager behind something that asks for it
)

// Secrets are what a caller gives with a channel that is never given out again.
type Secrets struct {
	// Sign is the secret of a webhook as Standard Webhooks writes it, "whsec_" and
	// base64; "" for a new one.
	Sign string
	// Bearer is sent to an Alertmanager as Authorization: Bearer, "" for none.
	Bearer string
}

const (
	signPrefix = "whsec_"
	// Standard Webhooks wants 24 to 64 bytes; a new one has 32, as many as SHA-256.
	minSign, newSign, maxSign = 24, 32, 64
	maxBearer                 = 4096
)

func newSignSecret() string {
	b := make([]byte, newSign)
	rand.Read(b) // never fails
	return signPrefix + base64.StdEncoding.EncodeToString(b)
}

// signKey returns the bytes of a secret.
func signKey(secret string) ([]byte, error) {
	text, ok := strings.CutPrefix(secret, signPrefix)
	key, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(key) < minSign || len(key) > maxSign {
		return nil, fmt.Errorf("secret: it is not %s and the base64 of %d to %d bytes: %w", signPrefix, minSign, maxSign, odometer.ErrInvalid)
	}
	return key, nil
}

// valid returns what is wrong with secrets for a channel, without repeating them.
func (s *Secrets) valid(kind odometer.ChannelKind) error {
	var errs []error
	switch {
	case s.Sign != "" && kind != odometer.ChannelWebhook:
		errs = append(errs, fmt.Errorf("secret: a channel of kind %s has none: %w", kind, odometer.ErrInvalid))
	case s.Sign != "":
		_, err := signKey(s.Sign)
		errs = append(errs, err)
	}
	switch {
	case s.Bearer != "" && kind != odometer.ChannelAlertmanager:
		errs = append(errs, fmt.Errorf("bearer: a channel of kind %s has none: %w", kind, odometer.ErrInvalid))
	case len(s.Bearer) > maxBearer || strings.ContainsFunc(s.Bearer, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		errs = append(errs, fmt.Errorf("bearer: it is no token: %w", odometer.ErrInvalid))
	}
	return errors.Join(errs...)
}

// keep seals another secret of a channel. Those of its purpose that are the newest so
// far are kept until a moment, or taken out where that is 0.
func (s *sealer) keep(ctx context.Context, tx *sql.Tx, channel odometer.ChannelID, purpose, text string, until int64) error {
	do := `UPDATE notify_secrets SET until_us = ? WHERE channel = ? AND purpose = ? AND until_us = 0`
	args := []any{until, string(channel), purpose}
	if until == 0 {
		do, args = `DELETE FROM notify_secrets WHERE channel = ? AND purpose = ?`, args[1:]
	}
	if _, err := tx.ExecContext(ctx, do, args...); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO notify_secrets (channel, number, purpose, sealed, until_us)
		VALUES (?, (SELECT coalesce(max(number), 0) + 1 FROM notify_secrets WHERE channel = ?), ?, ?, 0)`,
		string(channel), string(channel), purpose, s.close(channel, purpose, text))
	return err
}

// querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// secrets returns what a channel keeps for a purpose, the newest first, without what is
// over.
func (s *sealer) secrets(ctx context.Context, db querier, channel odometer.ChannelID, purpose string, now int64) (list []string, err error) {
	rows, err := db.QueryContext(ctx, `SELECT sealed FROM notify_secrets WHERE channel = ? AND purpose = ? AND (until_us = 0 OR until_us > ?)
		ORDER BY number DESC`, string(channel), purpose, now)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var sealed []byte
		if err := rows.Scan(&sealed); err != nil {
			return nil, err
		}
		text, err := s.open(channel, purpose, sealed)
		if err != nil {
			return nil, err
		}
		list = append(list, text)
	}
	return list, rows.Err()
}
