package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"example.org/odometer/account"
)

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
	if err := account.CheckSecret(token); err != nil {
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
	token = account.NewSecret()
	if err := writeFile(path, []byte(token+"\n")); err != nil {
		return "", fmt.Errorf("keep the administrator's token: %w", err)
	}
	return token, nil
}
