package odometer

import (
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// Identity is somebody as an issuer of tokens knows him, and the user who he is here.
type Identity struct {
	// ID is derived from issuer and subject. It is what the audit log names as the token
	// of who comes with one of the issuer's.
	ID        TokenID
	Issuer    string // as it calls itself, an address
	Subject   string // what it calls him; nobody else ever
	User      UserID
	Created   time.Time
	CreatedBy string
}

// Bounds of what names an identity, in bytes. OpenID Connect has subjects of 255 at
// most.
const (
	maxIssuer  = 1024
	maxSubject = 255
)

// ValidIssuer returns nil for the address by which an issuer of tokens calls itself:
// https, or http on this very machine.
func ValidIssuer(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || len(s) > maxIssuer:
		return fmt.Errorf("issuer %.80q is no address such as https://login.example.org: %w", HideSecrets(s), ErrInvalid)
	case !Confidential(u):
		return fmt.Errorf("issuer %.80q is not https: whoever is between would say who may do what: %w", HideSecrets(s), ErrInvalid)
	}
	return nil
}

// Confidential reports whether nobody between can read or change what an address
// answers: it is https, or leaves this machine never.
func Confidential(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}

// ValidSubject returns nil for what an issuer may call somebody.
func ValidSubject(s string) error {
	if s == "" || len(s) > maxSubject || HideSecrets(s) != s || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fmt.Errorf("subject %.40q is not 1 to %d characters of printable ASCII: %w", HideSecrets(s), maxSubject, ErrInvalid)
	}
	return nil
}
