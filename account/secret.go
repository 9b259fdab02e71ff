package account

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"strings"

	"example.org/odometer"
)

// secretText is base32 in lower case: no character needs quoting anywhere.
var secretText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

const (
	secretBytes = 32 // of randomness
	secretChars = 58 // of 36 bytes: those and a checksum
)

// NewSecret returns the secret of a token: 256 random bits and a checksum, by
// which a slip in copying is told from a token that is not accepted.
func NewSecret() string { return newSecret(rand.Reader) }

func newSecret(random io.Reader) string {
	var bits [secretBytes]byte
	fill(random, bits[:])
	return odometer.SecretPrefix + secretText.EncodeToString(binary.BigEndian.AppendUint32(bits[:], crc32.ChecksumIEEE(bits[:])))
}

// CheckSecret returns nil for a secret that NewSecret made and for one of another
// form, such as another system issues, and otherwise says what is wrong, without
// the secret.
func CheckSecret(s string) error {
	if strings.HasPrefix(s, odometer.SecretPrefix) && !wellFormed(s) {
		return errors.New("the token is not complete: characters of it are missing or changed")
	}
	return nil
}

// wellFormed reports whether s is a secret as NewSecret makes them. Exactly one
// text stands for each.
func wellFormed(s string) bool {
	text, ours := strings.CutPrefix(s, odometer.SecretPrefix)
	if !ours || len(text) != secretChars {
		return false
	}
	var bits [secretBytes + crc32.Size]byte
	if !decode(&bits, text) {
		return false
	}
	sum := ^uint32(0) // crc32.ChecksumIEEE, which would have bits escape to the heap
	for _, b := range bits[:secretBytes] {
		sum = crc32.IEEETable[byte(sum)^b] ^ sum>>8
	}
	return ^sum == binary.BigEndian.Uint32(bits[secretBytes:])
}

// decode reads the text of a secret: five bits a character, and two at the end
// that are 0. The standard library's decoder allocates, skips line ends and takes
// any value of the last bits.
func decode(bits *[secretBytes + crc32.Size]byte, text string) bool {
	left, n, at := uint32(0), 0, 0
	for i := range len(text) {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z':
			left = left<<5 | uint32(c-'a')
		case '2' <= c && c <= '7':
			left = left<<5 | uint32(c-'2'+26)
		default:
			return false
		}
		if n += 5; n >= 8 {
			n -= 8
			bits[at] = byte(left >> n)
			at, left = at+1, left&(1<<n-1)
		}
	}
	return left == 0
}

// digest is what is kept of a secret. It has 256 bits of randomness, so that a
// hash made to be slow would add nothing.
type digest [sha256.Size]byte

// digestOf returns the digest of a secret, without an allocation where it is of
// the usual length.
func digestOf(secret string) digest {
	var b [len(odometer.SecretPrefix) + secretChars]byte
	return sha256.Sum256(append(b[:0], secret...))
}

func (d digest) String() string { return hex.EncodeToString(d[:]) }

// newID returns a public id without its prefix: 80 random bits.
func newID(random io.Reader) string {
	var bits [10]byte
	fill(random, bits[:])
	return secretText.EncodeToString(bits[:])
}

func fill(random io.Reader, b []byte) {
	if _, err := io.ReadFull(random, b); err != nil {
		panic(err) // crypto/rand never fails
	}
}
