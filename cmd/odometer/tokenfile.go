package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"example.org/odometer/account"
)

// readPrivate reads a file of secrets. One that other users may read is refused:
// what it protects is then protected by nothing.
func readPrivate(what, path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the %s: %w", what, err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, advise(fmt.Errorf("%s %s may be read by other users (mode %04o)", what, path, info.Mode().Perm()), "chmod 600 %s", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the %s: %w", what, err)
	}
	return text, nil
}

// readToken reads a token from a file.
func readToken(path string) (string, error) {
	text, err := readPrivate("token file", path)
	if err != nil {
		return "", err
	}
	return oneSecret("token file "+path, string(text))
}

// oneSecret returns the only word of a text, which what names. No error has the
// text in it.
func oneSecret(what, text string) (string, error) {
	token := strings.TrimSpace(text)
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return "", fmt.Errorf("%s does not hold one token and nothing else", what)
	}
	if err := account.CheckSecret(token); err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
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
