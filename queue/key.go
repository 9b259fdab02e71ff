package queue

import (
	"fmt"

	"example.org/odometer"
	"github.com/nats-io/nkeys"
)

// Key is the ed25519 key pair by which a host shows who it is, an nkey of NATS.
// It is made on the host, and its seed stays there.
type Key struct {
	pair   nkeys.KeyPair
	public odometer.Key
}

// NewKey returns a new key and its seed, to be kept where nobody else reads it.
func NewKey() (*Key, []byte, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	seed, err := pair.Seed()
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	k, err := keyOf(pair)
	return k, seed, err
}

// ReadKey returns the key with this seed. The error says nothing of the seed.
func ReadKey(seed []byte) (*Key, error) {
	pair, err := nkeys.FromSeed(seed)
	if err != nil {
		return nil, fmt.Errorf("the seed of a key is damaged: %w: %w", odometer.ErrInvalid, err)
	}
	return keyOf(pair)
}

func keyOf(pair nkeys.KeyPair) (*Key, error) {
	public, err := pair.PublicKey()
	if err == nil && !nkeys.IsValidPublicUserKey(public) {
		err = fmt.Errorf("it is no user's: %w", odometer.ErrInvalid)
	}
	if err != nil {
		return nil, fmt.Errorf("the seed of a key: %w", err)
	}
	return &Key{pair, odometer.Key(public)}, nil
}

// Public returns the public half.
func (k *Key) Public() odometer.Key { return k.public }

// Sign returns the signature of b.
func (k *Key) Sign(b []byte) ([]byte, error) { return k.pair.Sign(b) }

// String returns the public half, also where a key is printed by mistake.
func (k *Key) String() string { return string(k.public) }
