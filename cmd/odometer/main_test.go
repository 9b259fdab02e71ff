package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"example.org/odometer/api"
	"example.org/odometer/api/apicheck"
	"example.org/odometer/internal/port"
	"example.org/odometer/queue"
)

// TestMain lets the test binary stand in for the program, so that the scripts
// run it as processes of their own, with the race detector where it is on. What
// tests and commands ask a server is held to the OpenAPI document.
func TestMain(m *testing.M) {
	apicheck.Default(api.OpenAPI)
	testscript.Main(m, map[string]func(){"odometer": main})
}

// oneCommandAfterAnother are the sessions in which little happens at once. The race
// detector, with which each start of the program takes a second, leaves them out.
var oneCommandAfterAnother = []string{"completion", "external-keys", "host", "instances", "month", "oidc", "owner", "people", "refused", "replay", "secrets", "tls", "token", "token-locked"}

// TestScript runs the sessions in testdata/script: the real program, real
// processes, real ports.
func TestScript(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if testing.Short() {
		files = slices.DeleteFunc(files, func(name string) bool {
			return slices.Contains(oneCommandAfterAnother, strings.TrimSuffix(filepath.Base(name), ".txtar"))
		})
	}
	testscript.Run(t, testscript.Params{
		Files: files,
		Setup: func(env *testscript.Env) error {
			for i := range 4 {
				addr, err := port.Free()
				if err != nil {
					return err
				}
				env.Setenv("ADDR"+strconv.Itoa(i+1), addr)
			}
			env.Setenv("DATA", filepath.Join(env.WorkDir, "data"))
			env.Setenv("ODOMETER_SOURCE", "machine") // not the guests of other tests
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await":         awaitFile,
			"eventually":    eventually,
			"occupy":        occupy,
			"newerledger":   newerLedger,
			"mode":          checkMode,
			"get":           get,
			"until":         waitFor,
			"topic":         readTopic,
			"natsserver":    startNATS,
			"natsreload":    reloadNATS,
			"post":          post,
			"queue":         startQueue,
			"certificate":   certificate,
			"remember":      remember,
			"lock":          lock,
			"unlock":        unlock,
			"absent":        absent,
			"neweraccounts": newerAccounts,
			"nowhere":       nowhere,
			"arguments":     lookAtArguments,
			"misused":       misused,
			"issuer":        issuer,
			"issueraway":    issuerAway,
			"receiver":      receiver,
		},
		RequireExplicitExec: true,
	})
}

// patience is how long a script waits for what is bound to happen; a loaded
// machine with the race detector is slow.
const patience = 30 * time.Second

// awaitFile waits until a file is there: await FILE.
func awaitFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await file")
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s is not there after %s", args[0], patience)
		}
	}
}

// eventually runs a command until it succeeds and prints what is looked for:
// eventually SECONDS REGEXP COMMAND…
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: eventually seconds regexp command…")
	}
	seconds, err := strconv.Atoi(args[0])
	ts.Check(err)
	want, err := regexp.Compile(args[1])
	ts.Check(err)
	for deadline := time.Now().Add(time.Duration(seconds) * time.Second); ; time.Sleep(100 * time.Millisecond) {
		err := ts.Exec(args[2], args[3:]...)
		if err == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not within %d s: %v; the last output:\n%s%s", seconds, err, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
		}
	}
}

// occupy listens on an address until the script ends: occupy ADDRESS.
func occupy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: occupy address")
	}
	l, err := net.Listen("tcp", args[0])
	ts.Check(err)
	ts.Defer(func() { l.Close() })
}

// newerLedger makes a ledger look as if a later version had written it:
// newerledger FILE.
func newerLedger(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: newerledger file")
	}
	db, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	ts.Check(err)
	defer db.Close()
	_, err = db.Exec(`UPDATE meta SET value = '99' WHERE key = 'schema_version'`)
	ts.Check(err)
}

// newerAccounts does the same to the accounts in it: neweraccounts FILE.
func newerAccounts(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: neweraccounts file")
	}
	db, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	ts.Check(err)
	defer db.Close()
	_, err = db.Exec(`UPDATE account_meta SET value = '99' WHERE key = 'schema_version'`)
	ts.Check(err)
}

// lock has this process hold the lock of a database, until unlock: lock FILE.
func lock(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: lock file")
	}
	db, err := sql.Open("sqlite", "file:"+ts.MkAbs(args[0])+"?_txlock=immediate&_pragma=busy_timeout(10000)")
	ts.Check(err)
	ts.Defer(func() { db.Close() })
	tx, err := db.Begin()
	ts.Check(err)
	locks.Store(ts.MkAbs(args[0]), tx)
}

// unlock gives it back: unlock FILE.
func unlock(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: unlock file")
	}
	tx, ok := locks.LoadAndDelete(ts.MkAbs(args[0]))
	if !ok {
		ts.Fatalf("%s is not locked", args[0])
	}
	ts.Check(tx.(*sql.Tx).Rollback())
}

var locks sync.Map // file → transaction

// remember takes what the group of an expression matched in the last standard
// output into a variable: remember VARIABLE REGEXP.
func remember(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: remember variable regexp")
	}
	want, err := regexp.Compile(args[1])
	ts.Check(err)
	m := want.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(m) != 2 {
		ts.Fatalf("got no %q in\n%s", args[1], ts.ReadFile("stdout"))
	}
	ts.Setenv(args[0], m[1])
}

// absent looks for the content of a file, a secret, in files: absent SECRET
// FILE…
func absent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: absent secret file…")
	}
	secret := strings.TrimSpace(ts.ReadFile(args[0]))
	for _, file := range args[1:] {
		if len(secret) < 20 || strings.Contains(ts.ReadFile(file), secret) {
			ts.Fatalf("%s has the secret of %s in it", file, args[0])
		}
	}
}

// checkMode compares a file's permissions: mode 0600 FILE.
func checkMode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode octal file")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("mode of %s: got %s, want %s", args[1], got, args[0])
	}
}

// get asks for an address and prints the body, whatever the status:
// get URL [TOKENFILE].
func get(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: get url [tokenfile]")
	}
	r, err := http.NewRequest(http.MethodGet, args[0], nil)
	ts.Check(err)
	if len(args) == 2 {
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(ts.ReadFile(args[1])))
	}
	resp, err := trusting(ts).Do(r)
	ts.Check(err)
	defer resp.Body.Close()
	_, err = io.Copy(ts.Stdout(), resp.Body)
	ts.Check(err)
}

// waitFor asks for an address until the body has what is looked for:
// until SECONDS REGEXP URL [TOKENFILE].
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 || len(args) > 4 {
		ts.Fatalf("usage: until seconds regexp url [tokenfile]")
	}
	seconds, err := strconv.Atoi(args[0])
	ts.Check(err)
	want, err := regexp.Compile(args[1])
	ts.Check(err)
	r, err := http.NewRequest(http.MethodGet, args[2], nil)
	ts.Check(err)
	asks := trusting(ts)
	var body []byte
	for deadline := time.Now().Add(time.Duration(seconds) * time.Second); !want.Match(body); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("not within %d s: %v; the last answer:\n%s", seconds, err, body)
		}
		if len(args) == 4 {
			token, _ := os.ReadFile(ts.MkAbs(args[3])) // it may not be there yet
			r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		}
		var resp *http.Response
		if resp, err = asks.Do(r); err == nil {
			body, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
	}
}

// post sends a file of one CloudEvent: post URL TOKENFILE FILE.
func post(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: post url tokenfile file")
	}
	r, err := http.NewRequest(http.MethodPost, args[0], strings.NewReader(ts.ReadFile(args[2])))
	ts.Check(err)
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(ts.ReadFile(args[1])))
	r.Header.Set("Content-Type", "application/cloudevents+json")
	resp, err := http.DefaultClient.Do(r)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if resp.StatusCode != http.StatusOK {
		ts.Fatalf("%s: %s %s", args[0], resp.Status, body)
	}
}

// readTopic reads entries as a billing system does, by the key in a file, and prints
// subjects and bodies: topic URL KEYFILE CONSUMER N [STREAM]. With "!" the key is not
// let in.
func readTopic(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 4 || len(args) > 5 {
		ts.Fatalf("usage: topic url keyfile consumer n [stream]")
	}
	stream := queue.UsageStream
	if len(args) == 5 {
		stream = args[4]
	}
	n, err := strconv.Atoi(args[3])
	ts.Check(err)
	key, err := nats.NkeyOptionFromSeed(ts.MkAbs(args[1]))
	ts.Check(err)
	nc, err := nats.Connect(args[0], key, nats.CustomInboxPrefix("_INBOX."+args[2]))
	if neg {
		if !errors.Is(err, nats.ErrAuthorization) {
			ts.Fatalf("got %v, want it refused", err)
		}
		return
	}
	ts.Check(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	place, err := js.Consumer(ctx, stream, args[2])
	ts.Check(err)
	for range n {
		batch, err := place.Fetch(1, jetstream.FetchMaxWait(patience))
		ts.Check(err)
		for m := range batch.Messages() {
			ts.Check(m.Ack())
			fmt.Fprintf(ts.Stdout(), "%s\t%s\n", m.Subject(), m.Data())
		}
		ts.Check(batch.Error())
	}
	ts.Check(nc.Flush())
}

// startNATS runs a NATS server that is told what a file says, until the script ends:
// natsserver ADDRESS FILE.
func startNATS(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: natsserver address file")
	}
	conf := fmt.Sprintf("listen: %q\njetstream { store_dir: %q }\ninclude ./%s\n", args[0], ts.MkAbs("nats-store"), args[1])
	ts.Check(os.WriteFile(ts.MkAbs("nats.conf"), []byte(conf), 0o600))
	opts, err := natsserver.ProcessConfigFile(ts.MkAbs("nats.conf"))
	ts.Check(err)
	opts.NoSigs, opts.NoLog = true, true
	s, err := natsserver.NewServer(opts)
	ts.Check(err)
	s.Start()
	ts.Defer(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		ts.Fatalf("the server does not start")
	}
	natsServers.Store(ts.MkAbs("nats.conf"), s)
}

// reloadNATS has it read the file again: natsreload.
func reloadNATS(ts *testscript.TestScript, neg bool, args []string) {
	s, ok := natsServers.Load(ts.MkAbs("nats.conf"))
	if neg || len(args) != 0 || !ok {
		ts.Fatalf("usage: natsreload, after natsserver")
	}
	ts.Check(s.(*natsserver.Server).Reload())
}

var natsServers sync.Map // file → server

// startQueue runs a queue that is no server's own, until the script ends:
// queue ADDRESS TOKENFILE.
func startQueue(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: queue address tokenfile")
	}
	ts.Check(os.Chmod(ts.MkAbs(args[1]), 0o600))
	s, err := queue.StartServer(queue.ServerOptions{
		StoreDir: ts.MkAbs("external-queue"), Addr: args[0], Token: strings.TrimSpace(ts.ReadFile(args[1])),
	})
	ts.Check(err)
	ts.Defer(s.Shutdown)
}

// certificate makes a certificate of 127.0.0.1, signed by itself, and its key:
// certificate CERTFILE KEYFILE.
func certificate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: certificate certfile keyfile")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}

// TestRunReportsEveryErrorOnItsOwnLine keeps the form of what goes wrong.
func TestRunReportsEveryErrorOnItsOwnLine(t *testing.T) {
	var out, errs strings.Builder
	code := run(context.Background(), []string{"serve", "--interval", "1500ms", "--org-id", "o", "--http", "0.0.0.0:1"}, streams{
		out: &out, err: &errs, env: func(string) (string, bool) { return "", false },
	})
	if code != exitUsage {
		t.Errorf("exit code: got %d, want %d", code, exitUsage)
	}
	for _, want := range []string{
		"(?m)^odometer: --http 0.0.0.0:1 would be open to other machines without protection; give --tls-cert",
		"(?m)^odometer: --interval 1.5s: whole seconds from 1s to 1h are possible$",
		"(?m)^odometer: --org-id needs --user-id",
	} {
		if !regexp.MustCompile(want).MatchString(errs.String()) {
			t.Errorf("got %q, want it to match %q", errs.String(), want)
		}
	}
	if out.String() != "" {
		t.Errorf("standard output: got %q, want nothing", out.String())
	}
}

// issuer starts an OpenID issuer, and writes a token for each of some subjects:
// issuer VARIABLE (SUBJECT FILE)…
func issuer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args)%2 != 1 {
		ts.Fatalf("usage: issuer variable (subject file)…")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	var s *httptest.Server
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]string{"issuer": s.URL, "jwks_uri": s.URL + "/keys"})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1"}}})
	})
	s = httptest.NewServer(mux)
	ts.Defer(s.Close)
	issuers.Store(ts.Getenv("DATA"), s)
	ts.Setenv(args[0], s.URL)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "1"))
	ts.Check(err)
	for i := 1; i < len(args); i += 2 {
		now := time.Now().Unix()
		claims, err := json.Marshal(map[string]any{"iss": s.URL, "aud": "odometer", "sub": args[i], "iat": now, "exp": now + 3600})
		ts.Check(err)
		jws, err := signer.Sign(claims)
		ts.Check(err)
		text, err := jws.CompactSerialize()
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[i+1]), []byte(text), 0o600))
	}
}

// issuerAway ends it: issueraway.
func issuerAway(ts *testscript.TestScript, neg bool, args []string) {
	s, ok := issuers.LoadAndDelete(ts.Getenv("DATA"))
	if neg || !ok || len(args) != 0 {
		ts.Fatalf("usage: issueraway, after issuer")
	}
	s.(*httptest.Server).Close()
}

var issuers sync.Map // data directory → server
