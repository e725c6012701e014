package account_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/sqlstore/schematest"
	"github.com/opticworks/devicecloud/topic"
)

// courier is MQTT without anybody connected.
type courier struct{}

func (courier) Deliver(string, topic.Kind, []byte) error { return registry.ErrOffline }
func (courier) Announce(string, topic.Kind, []byte)      {}
func (courier) Watched() bool                            { return false }
func (courier) Disconnect(string, registry.Reason) bool  { return false }
func (courier) ExpireSession(string, int64, time.Time)   {}
func (courier) DeliverCommand(string, int64, registry.CommandDelivery) error {
	return registry.ErrOffline
}
func (courier) AccessChanged(string)      {}
func (courier) Sessions() []registry.Live { return nil }

// clock is a time that only the test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// world is the domain over a real store and the real registry.
type world struct {
	*account.Service
	db      *sqlstore.DB
	reg     *registry.Registry
	clock   *clock
	key     ed25519.PrivateKey // what the tokens are signed with
	signing account.SigningKey // the same
	logs    *bytes.Buffer
	file    string // of the database
}

const (
	adminEmail    = "root@example.com"
	adminPassword = "correct horse battery"
)

// from is a request from a network of documentation addresses.
var from = registry.Actor{IP: "203.0.113.7", UserAgent: "test", RequestID: "req-1", ClientType: "admin-web"}

// cheap keeps the tests fast.
func cheap() account.HashParams { return account.HashParams{MemoryKiB: 64, Passes: 1, Lanes: 1} }

func newWorld(t testing.TB, change func(*account.Options)) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{clock: &clock{t: time.Date(2026, 1, 15, 10, 0, 0, 0, time.UTC)}, logs: &bytes.Buffer{}}
	log := slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	w.file = schematest.SQLiteFile(t)
	if w.db, err = sqlstore.Open(ctx, "sqlite:"+w.file, sqlstore.Options{}); err != nil {
		t.Fatal(err)
	}
	nextID := registry.NewIDSource(time.Now)
	w.reg = registry.New(w.db.Registry(), courier{}, registry.Options{Now: w.clock.Now, NextID: nextID, Linger: time.Millisecond, Logger: log})
	t.Cleanup(func() {
		w.reg.Close()
		if err := w.db.Close(); err != nil {
			t.Error(err)
		}
	})
	signing, text, err := account.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	w.key, w.signing = parsed.(ed25519.PrivateKey), signing
	opts := account.Options{SigningKey: signing, Now: w.clock.Now, NextID: nextID, Dev: true, Hash: cheap(), Logger: log}
	if change != nil {
		change(&opts)
	}
	if w.Service, err = account.New(w.db.Accounts(), w.reg, opts); err != nil {
		t.Fatal(err)
	}
	return w
}

// sql changes the database behind the domain's back.
func (w *world) sql(t testing.TB, query string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+w.file+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // it has written what it has to
	if _, err := db.Exec(query, args...); err != nil {
		t.Fatal(err)
	}
}

// login logs a person in by the dev provider.
func (w *world) login(t testing.TB, email string) (account.Tokens, account.User) {
	t.Helper()
	tokens, u, err := w.Login(context.Background(), account.LoginRequest{Provider: "dev", IDToken: email}, from)
	if err != nil {
		t.Fatal(err)
	}
	return tokens, u
}

// admin makes the first administrator.
func (w *world) admin(t testing.TB) account.Admin {
	t.Helper()
	a, err := w.CreateAdmin(context.Background(), adminEmail, adminPassword, account.AdminRoleAdmin)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// events counts the audit trail's rows by event.
func (w *world) events(t testing.TB) map[string]int {
	t.Helper()
	rows, err := w.reg.Audit(context.Background(), registry.System(), registry.AuditFilter{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, e := range rows {
		counts[e.Event]++
	}
	return counts
}
