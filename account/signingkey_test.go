package account_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opticworks/devicecloud/account"
)

// public tells keys apart by what they publish.
func public(t *testing.T, k ...account.SigningKey) string {
	t.Helper()
	s, err := account.New(nil, nil, account.Options{SigningKey: k[0], MoreKeys: k[1:], Hash: cheap()})
	if err != nil {
		t.Fatal(err)
	}
	return string(s.JWKS())
}

func TestLoadOrCreateSigningKeyss(t *testing.T) {
	t.Run("it is made once, for this user alone", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "key.pem")
		first, err := account.LoadOrCreateSigningKeys(file)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		second, err := account.LoadOrCreateSigningKeys(file)
		if err != nil || public(t, first...) != public(t, second...) {
			t.Errorf("another key, %v", err)
		}
		left, err := os.ReadDir(filepath.Dir(file))
		if err != nil || len(left) != 1 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	t.Run("processes that start at once share it", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "key.pem")
		keys := make([]string, 8)
		var wg sync.WaitGroup
		for i := range keys {
			wg.Go(func() {
				k, err := account.LoadOrCreateSigningKeys(file)
				if err != nil {
					t.Error(err)
					return
				}
				keys[i] = public(t, k...)
			})
		}
		wg.Wait()
		for _, k := range keys {
			if k != keys[0] {
				t.Error("two keys")
			}
		}
	})
	t.Run("a file that others may read is refused", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "key.pem")
		if _, err := account.LoadOrCreateSigningKeys(file); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := account.LoadOrCreateSigningKeys(file); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Error(err)
		}
	})
	t.Run("an empty file is refused and not overwritten", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := account.LoadOrCreateSigningKeys(file); err == nil {
			t.Error("taken")
		}
		if b, err := os.ReadFile(file); err != nil || len(b) != 0 {
			t.Errorf("now %d bytes, %v", len(b), err)
		}
	})
	t.Run("a folder that is missing is an error", func(t *testing.T) {
		if _, err := account.LoadOrCreateSigningKeys(filepath.Join(t.TempDir(), "no", "key.pem")); err == nil {
			t.Error("taken")
		}
	})
}

func TestParseSigningKeys(t *testing.T) {
	_, good, err := account.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(other)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"nothing":              nil,
		"no PEM":               []byte("hunter2-hunter2-hunter2-hunter2-hunter2"),
		"another kind of key":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		"another kind of file": bytes.ReplaceAll(good, []byte("PRIVATE KEY"), []byte("CERTIFICATE")),
		"a cut second key":     append(bytes.Clone(good), good[:len(good)/2]...),
		"a broken first key":   append([]byte("-----BEGIN PRIVATE KEY-----\nhunter2!\n-----END PRIVATE KEY-----\n"), good...),
		"another second key":   append(bytes.Clone(good), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...),
		"nine keys":            bytes.Repeat(good, 9),
		"broken bytes":         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("hunter2")}),
	} {
		t.Run(name+" is refused without being quoted", func(t *testing.T) {
			_, err := account.ParseSigningKeys(text)
			if err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("without a key there is no service", func(t *testing.T) {
		if _, err := account.New(nil, nil, account.Options{}); err == nil {
			t.Error("made")
		}
	})
}

func FuzzParseSigningKeys(f *testing.F) {
	_, good, err := account.NewSigningKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := account.ParseSigningKeys(text)
		if err == nil {
			public(t, k...) // a key that was taken can be used
		}
	})
}

// What is worth a password never shows, however it is printed.
func TestSecretsRedactThemselves(t *testing.T) {
	w := newWorld(t, nil)
	admin := w.admin(t)
	tokens, _, err := w.AdminLogin(context.Background(), account.AdminLogin{Email: adminEmail, Password: adminPassword}, from)
	if err != nil {
		t.Fatal(err)
	}
	key, text, err := account.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	seed := block.Bytes[len(block.Bytes)-32:]
	opts := account.Options{SigningKey: key}
	var out bytes.Buffer
	for _, v := range []any{tokens, &tokens, tokens.Access, tokens.Refresh, &tokens.Refresh, key, &key, opts, &opts, admin, &admin, admin.PasswordHash, w.Service, *w.Service} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		b, err := json.Marshal(v)
		if err == nil {
			out.Write(b)
		}
	}
	private, hash := w.key.Seed(), string(admin.PasswordHash)
	for name, secret := range map[string]string{
		"token": tokens.Access.Reveal(), "refresh token": tokens.Refresh.Reveal(), "hash": hash, "end of the hash": hash[len(hash)-20:], "hash in hex": fmt.Sprintf("%x", hash),
		"seed as numbers": strings.Trim(fmt.Sprint(seed), "[]"), "seed in hex": fmt.Sprintf("%x", seed), "seed in base64": base64.StdEncoding.EncodeToString(seed),
		"signing seed as numbers": strings.Trim(fmt.Sprint(private), "[]"), "signing seed in hex": fmt.Sprintf("%x", private),
	} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("the %s shows", name)
		}
	}
	if strings.Contains(w.logs.String(), adminPassword) || strings.Contains(w.logs.String(), tokens.Access.Reveal()) || strings.Contains(w.logs.String(), tokens.Refresh.Reveal()) {
		t.Error("a secret is in the log")
	}
}
