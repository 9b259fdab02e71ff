package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"example.org/odometer/account"
	"example.org/odometer/api/client"
)

// defaultServer is where a server answers that was told nothing else.
const defaultServer = "http://" + defaultHTTP

// serverFlags say which server a client command speaks to and with which token.
// Where neither is given, the server that runs on this machine for the same
// user is found through its data directory.
type serverFlags struct {
	Server    string // http://host:port or https://…
	Token     string
	TokenFile string
	DataDir   string // of the local server
	trustFlags

	settings func() error // reads those that are no flags, where that was not done
}

func (c *serverFlags) register(flags *pflag.FlagSet, env func(string) (string, bool)) {
	flags.StringVar(&c.Server, "server", "", "address of the server (default: the one running here, else "+defaultServer+")")
	flags.StringVar(&c.Token, "token", "", "bearer token; other users can see it on a command line, so prefer ODOMETER_TOKEN or --token-file")
	flags.StringVar(&c.TokenFile, "token-file", "", "file that holds the bearer token (default: admin.token of the local server)")
	c.trustFlags.register(flags)
	c.settings = func() error { return loadSettings(flags, env) }
	if flags.Lookup("data-dir") == nil {
		flags.StringVar(&c.DataDir, "data-dir", defaultDataDir(env, ""), "data directory of the local server, where its address and token are found")
	}
}

// client returns a client for the server. The local server's token goes to the
// local server only.
func (c *serverFlags) client() (*client.Client, error) {
	server, token, err1 := c.resolve()
	trust, err2 := c.trustFlags.config()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return newClient(server, token, trust), nil
}

// newClient returns a client that trusts the given authorities, nil for the
// system's.
func newClient(server, token string, trust *tls.Config) *client.Client {
	c := &client.Client{Server: server, Token: token}
	if trust != nil {
		c.HTTP = &http.Client{Timeout: client.Timeout, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: trust}}
	}
	return c
}

func (c *serverFlags) resolve() (server, token string, err error) {
	local := defaultServer
	if info, err := readServerInfo(c.DataDir); err == nil && info.HTTP != "" {
		local = info.HTTP
	}
	server = strings.TrimSuffix(c.Server, "/")
	if server == "" {
		server = local
	}
	if err := noSecretIn("server", server, "token-file"); err != nil {
		return "", "", misuse(err)
	}
	switch {
	case c.Token != "" && c.TokenFile != "":
		return "", "", misuse(errors.New("both a token and a token file are given; one of them is enough"))
	case c.Token != "":
		if err := account.CheckSecret(c.Token); err != nil {
			return "", "", misuse(fmt.Errorf("ODOMETER_TOKEN or --token: %w", err))
		}
		return server, c.Token, nil
	case c.TokenFile != "":
		token, err = readToken(c.TokenFile)
		return server, token, err
	case sameHost(server, local):
		token, err = readToken(filepath.Join(c.DataDir, tokenFile))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return server, "", nil // the server's answer says what to do
		}
		return server, token, err
	}
	return server, "", nil
}

// sameHost reports whether two addresses name one server.
func sameHost(a, b string) bool {
	u, err1 := url.Parse(a)
	v, err2 := url.Parse(b)
	return err1 == nil && err2 == nil && u.Scheme == v.Scheme && u.Host == v.Host
}
