package main

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"strings"
)

// tokenPrefix makes a token that leaked recognisable to scanners.
const tokenPrefix = "odm_"

// tokenText is base32 in lower case: no character needs quoting anywhere.
var tokenText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newToken returns a token of 256 random bits and a checksum, by which a slip
// in copying is told from a token that is not accepted.
func newToken() string {
	var bits [32]byte
	rand.Read(bits[:]) // never fails
	return tokenPrefix + tokenText.EncodeToString(binary.BigEndian.AppendUint32(bits[:], crc32.ChecksumIEEE(bits[:])))
}

// checkToken returns nil for a token that newToken made and for one of another
// form, such as another system issues, and otherwise says what is wrong.
func checkToken(token string) error {
	text, ours := strings.CutPrefix(token, tokenPrefix)
	if !ours {
		return nil
	}
	b, err := tokenText.DecodeString(text)
	if err != nil || len(b) != 36 || crc32.ChecksumIEEE(b[:32]) != binary.BigEndian.Uint32(b[32:]) {
		return errors.New("the token is not complete: characters of it are missing or changed")
	}
	return nil
}

// readToken reads a token from a file. A file that other users may read is
// refused: what it protects is then protected by nothing.
func readToken(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return "", advise(fmt.Errorf("token file %s may be read by other users (mode %04o)", path, info.Mode().Perm()), "chmod 600 %s", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return "", fmt.Errorf("token file %s does not hold one token and nothing else", path)
	}
	if err := checkToken(token); err != nil {
		return "", fmt.Errorf("token file %s: %w", path, err)
	}
	return token, nil
}

// adminToken returns the token kept at path, and makes one where there is none.
func adminToken(path string) (string, error) {
	token, err := readToken(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return token, err
	}
	token = newToken()
	if err := writeFile(path, []byte(token+"\n")); err != nil {
		return "", fmt.Errorf("keep the administrator's token: %w", err)
	}
	return token, nil
}
