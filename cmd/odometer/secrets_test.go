package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"example.org/odometer/account"
)

// secretsIn are the secrets that lie in the files of a directory, by file and line, in
// each form in which something could write them.
func secretsIn(ts *testscript.TestScript, dir string) map[string][]byte {
	all := map[string][]byte{}
	files, err := os.ReadDir(ts.MkAbs(dir))
	ts.Check(err)
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(ts.MkAbs(dir), file.Name()))
		ts.Check(err)
		lines := 0
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if len(line) < 20 || strings.HasPrefix(line, "-----") {
				continue
			}
			lines++
			name := fmt.Sprintf("%s, line %d", file.Name(), lines)
			all[name] = []byte(line)
			all[name+", in capitals"] = []byte(strings.ToUpper(line))
			all[name+", in hexadecimal"] = []byte(hex.EncodeToString([]byte(line)))
			all[name+", in base64"] = []byte(strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(line)), "=")[:24])
		}
		if lines == 0 {
			ts.Fatalf("%s has no secret in it", file.Name())
		}
	}
	return all
}

// nowhere looks for secrets in files and in all that is in directories. Those that are
// to have them must be for their user alone: nowhere SECRETS PATH… -except FILE…
func nowhere(ts *testscript.TestScript, neg bool, args []string) {
	split := slices.Index(args, "-except")
	if neg || split < 2 {
		ts.Fatalf("usage: nowhere secrets path… -except file…")
	}
	secrets := secretsIn(ts, args[0])
	except := map[string]bool{}
	for _, file := range args[split+1:] {
		info, err := os.Stat(ts.MkAbs(file))
		ts.Check(err)
		if info.Mode().Perm() != 0o600 {
			ts.Fatalf("%s has the mode %04o, want 0600", file, info.Mode().Perm())
		}
		except[ts.MkAbs(file)] = true
	}
	files := 0
	for _, path := range args[1:split] {
		ts.Check(filepath.WalkDir(ts.MkAbs(path), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || except[path] {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files++
			for name, secret := range secrets {
				if bytes.Contains(text, secret) {
					return fmt.Errorf("%s has the secret of %s in it", path, name)
				}
			}
			return nil
		}))
	}
	if files < 20 {
		ts.Fatalf("looked at %d files alone", files)
	}
}

// lookAtArguments looks for secrets in the arguments of all processes: arguments
// SECRETS.
func lookAtArguments(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: arguments secrets")
	}
	secrets := secretsIn(ts, args[0])
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	ts.Check(err)
	ours := 0
	for _, process := range processes {
		line, err := os.ReadFile(process)
		if err != nil {
			continue // it has ended
		}
		if bytes.Contains(line, []byte(ts.Getenv("ADDR1"))) {
			ours++
		}
		for name, secret := range secrets {
			if bytes.Contains(line, secret) {
				ts.Fatalf("the arguments %q have the secret of %s in them", line, name)
			}
		}
	}
	if ours != 2 {
		ts.Fatalf("got %d processes that know the server's address, want it and its agent", ours)
	}
}

// misused sends each secret to wherever it does not belong, and writes all that is
// answered into a file: misused SECRETS URL FILE.
func misused(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: misused secrets url file")
	}
	var answers bytes.Buffer
	ask := func(method, path, token, body string) {
		r, err := http.NewRequest(method, args[1]+path, strings.NewReader(body))
		ts.Check(err)
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Idempotency-Key", url.PathEscape(body))
		resp, err := trusting(ts).Do(r)
		ts.Check(err)
		defer resp.Body.Close()
		resp.Write(&answers)
	}
	known := strings.TrimSpace(ts.ReadFile(args[0] + "/token"))
	for name, secret := range secretsIn(ts, args[0]) {
		if strings.Contains(name, ", in ") || strings.HasPrefix(name, "tls") || strings.HasPrefix(name, "ledger") {
			continue // these are told from nothing else by how they look
		}
		text := string(secret)
		ask("GET", "/api/v1/me?token="+url.QueryEscape(text), known, "")
		ask("GET", "/api/v1/tokens/"+url.PathEscape(text), known, "")
		ask("POST", "/api/v1/organizations", known, fmt.Sprintf(`{"id":%q,"name":%q}`, text, text))
		ask("GET", "/api/v1/me", text+"x", "")
		ask("GET", "/api/v1/me", account.NewSecret(), "")
	}
	ask("DELETE", "/api/v1/users/u-ada", known, "")
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), answers.Bytes(), 0o600))
}

// trusting is a client that trusts what ODOMETER_TLS_CA names.
func trusting(ts *testscript.TestScript) *http.Client {
	trust := trustFlags{TLSCA: ts.Getenv("ODOMETER_TLS_CA")}
	if trust.TLSCA == "" {
		return http.DefaultClient
	}
	conf, err := trust.config()
	ts.Check(err)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
}
