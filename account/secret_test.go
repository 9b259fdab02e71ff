package account

import (
	"hash/crc32"
	"strings"
	"testing"

	"example.org/odometer"
)

func TestASecretTellsASlipFromAnotherToken(t *testing.T) {
	secret := NewSecret()
	if secret == NewSecret() {
		t.Fatal("two secrets are equal")
	}
	if err := CheckSecret(secret); err != nil || !wellFormed(secret) {
		t.Errorf("a new secret: got %v, want no error", err)
	}
	if err := CheckSecret("a-token-of-another-system"); err != nil || wellFormed("a-token-of-another-system") {
		t.Errorf("another system's token: got %v, want no error", err)
	}
	bad := map[string]string{
		"cut off":             secret[:len(secret)-1],
		"one character added": secret + "a",
		"a line end in it":    secret[:20] + "\n" + secret[20:],
		"in capitals":         odometer.SecretPrefix + strings.ToUpper(secret[len(odometer.SecretPrefix):]),
		"nothing but prefix":  odometer.SecretPrefix,
	}
	for at := len(odometer.SecretPrefix); at < len(secret); at++ { // the last has bits that no secret uses
		for _, other := range "abcdefghijklmnopqrstuvwxyz234567" {
			if changed := secret[:at] + string(other) + secret[at+1:]; changed != secret {
				bad["another character: "+changed] = changed
			}
		}
	}
	for name, s := range bad {
		if err := CheckSecret(s); err == nil || strings.Contains(err.Error(), s[len(odometer.SecretPrefix):]) && len(s) > 4 {
			t.Errorf("%s: got %v for %s, want an error without it", name, err, s)
		}
	}
}

// FuzzSecret reads what is sent as a token: exactly one text stands for each
// secret, and every secret is taken out of what is logged.
func FuzzSecret(f *testing.F) {
	for _, s := range []string{"", "odm_", NewSecret(), NewSecret() + "a", "odm_" + strings.Repeat("a", secretChars), strings.ToUpper(NewSecret()), "odm_" + strings.Repeat("\n", secretChars), "Bearer " + NewSecret()} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ok := wellFormed(s)
		// What the standard library makes of it, where it makes anything of it.
		text, _ := strings.CutPrefix(s, odometer.SecretPrefix)
		if b, err := secretText.DecodeString(text); len(text) == secretChars && err == nil && secretText.EncodeToString(b) == text {
			var bits [secretBytes + crc32.Size]byte
			if !decode(&bits, text) || string(bits[:]) != string(b) {
				t.Errorf("%q: got the bits %x, want %x", text, bits, b)
			}
		}
		if ours := strings.HasPrefix(s, odometer.SecretPrefix); (CheckSecret(s) == nil) != (ok || !ours) {
			t.Errorf("%q: got %v, well formed %v", s, CheckSecret(s), ok)
		}
		if !ok {
			return
		}
		b, err := secretText.DecodeString(s[len(odometer.SecretPrefix):])
		if err != nil || odometer.SecretPrefix+secretText.EncodeToString(b) != s {
			t.Errorf("%q: is not the one text of its bits: %v", s, err)
		}
		if hidden := odometer.HideSecrets("x " + s + " y"); strings.Contains(hidden, s[4:]) {
			t.Errorf("%q: got %q, want it hidden", s, hidden)
		}
	})
}
