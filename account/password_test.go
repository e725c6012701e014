package account

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// FuzzPasswordHash feeds the decoder of stored hashes, which must neither panic nor
// accept parameters that would stop the program.
func FuzzPasswordHash(f *testing.F) {
	params := HashParams{MemoryKiB: 64, Passes: 1, Lanes: 1}
	f.Add(string(params.hash("correct horse battery")))
	f.Add("$argon2id$v=19$m=4294967295,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=64,t=0,p=0$$")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := PasswordHash(text).parse()
		if err != nil {
			if !errors.Is(err, errBadHash) {
				t.Error(err)
			}
			return
		}
		if err := p.params.check(); err != nil {
			t.Errorf("%q is taken: %v", text, err)
		}
		if p.params.MemoryKiB <= 1024 && p.params.Passes <= 2 {
			p.matches("x")
		}
	})
}

func TestHashParams(t *testing.T) {
	for _, p := range []HashParams{{8, 1, 2}, {1 << 30, 1, 1}, {64, 0, 1}, {64, 1, 0}, {64, 17, 1}} {
		if p.check() == nil {
			t.Errorf("%+v is taken", p)
		}
	}
	p := HashParams{MemoryKiB: 64, Passes: 1, Lanes: 1}
	one, two := p.hash("correct horse battery"), p.hash("correct horse battery")
	if one == two {
		t.Error("two hashes of one password are equal: there is no salt")
	}
	if !strings.HasPrefix(string(one), "$argon2id$v=19$m=64,t=1,p=1$") {
		t.Errorf("the hash begins %.30q", string(one))
	}
}

// A storm of addresses must cost neither memory nor the locks of those who guess.
func TestLockoutIsBounded(t *testing.T) {
	l := newLockout()
	now := time.Date(2026, 1, 15, 10, 0, 0, 0, time.UTC)
	for range freeFailures {
		l.attempt("root@example.com", "203.0.113.1", now)
	}
	for i := range 3 * maxTries {
		ip := make([]byte, 0, 16)
		ip = append(ip, "10."...)
		for _, n := range []int{i >> 16 & 255, i >> 8 & 255, i & 255} {
			ip = append(ip, byte('0'+n/100), byte('0'+n/10%10), byte('0'+n%10), '.')
		}
		l.attempt("root@example.com", strings.ReplaceAll(strings.TrimRight(string(ip), "."), ".0", "."), now)
	}
	if len(l.tries) > maxTries+1 {
		t.Errorf("%d entries", len(l.tries))
	}
	if wait, _ := l.attempt("root@example.com", "203.0.113.1", now); wait != firstLock {
		t.Errorf("the lock is %v after the storm", wait)
	}
}
