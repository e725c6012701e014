package httpapi_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/httpapi"
	"github.com/opticworks/devicecloud/registry"
)

// slow is two at once and then one every ten seconds.
var slow = httpapi.Rate{PerSecond: 0.1, Burst: 2}

// limited checks that a charge is refused until the given time has passed.
func limited(t *testing.T, err error, wait time.Duration) {
	t.Helper()
	var e *registry.Error
	if !errors.As(err, &e) || !errors.Is(err, account.ErrRateLimited) || e.Kind != registry.RateLimited {
		t.Errorf("it is not limited: %v", err)
	} else if d := e.RetryAfter - wait; d < -time.Millisecond || d > time.Millisecond {
		t.Errorf("it may come back after %v, want %v", e.RetryAfter, wait)
	}
}

func TestLimits(t *testing.T) {
	one, other, local := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("127.0.0.1")
	user := func(id string) registry.Actor { return registry.Actor{Kind: registry.ActorUser, ID: id} }
	for name, c := range map[string]struct {
		limits   httpapi.Limits
		charge   func(httpapi.Throttle) error
		stranger func(httpapi.Throttle) error
		free     func(httpapi.Throttle) error
	}{
		"requests of an address": {
			httpapi.Limits{RequestsPerAddress: slow},
			func(l httpapi.Throttle) error { return l.Request(one) },
			func(l httpapi.Throttle) error { return l.Request(other) },
			func(l httpapi.Throttle) error { return l.Request(local) },
		},
		"requests of a person": {
			httpapi.Limits{RequestsPerUser: slow},
			func(l httpapi.Throttle) error { return l.User(user("a")) },
			func(l httpapi.Throttle) error { return l.User(user("b")) },
			func(l httpapi.Throttle) error { return l.Request(one) },
		},
		"a member of staff with the id of a person": {
			httpapi.Limits{RequestsPerUser: slow},
			func(l httpapi.Throttle) error { return l.User(user("a")) },
			func(l httpapi.Throttle) error { return l.User(registry.Actor{Kind: registry.ActorAdmin, ID: "a"}) },
			func(l httpapi.Throttle) error { return l.Device("a") },
		},
		"logins from an address": {
			httpapi.Limits{LoginsPerAddress: slow},
			func(l httpapi.Throttle) error { return l.Login(one) },
			func(l httpapi.Throttle) error { return l.Login(other) },
			func(l httpapi.Throttle) error { return l.Login(local) },
		},
		"logins of an installation": {
			httpapi.Limits{LoginsPerInstall: slow},
			func(l httpapi.Throttle) error { return l.Install("i1") },
			func(l httpapi.Throttle) error { return l.Install("i2") },
			func(l httpapi.Throttle) error { return l.Install("") },
		},
		"logins of an installation with an endless name": {
			httpapi.Limits{LoginsPerInstall: slow},
			func(l httpapi.Throttle) error { return l.Install(strings.Repeat("x", 10000)) },
			func(l httpapi.Throttle) error { return l.Install(strings.Repeat("x", 9999)) },
			func(l httpapi.Throttle) error { return l.Install("") },
		},
		"links to an e-mail": {
			httpapi.Limits{MagicLinksPerEmail: slow},
			func(l httpapi.Throttle) error { return l.MagicLink(one, "a@example.com") },
			func(l httpapi.Throttle) error { return l.MagicLink(one, "b@example.com") },
			func(l httpapi.Throttle) error { return l.Login(one) },
		},
		"links asked for by an address": {
			httpapi.Limits{MagicLinksPerAddress: slow},
			func(l httpapi.Throttle) error { return l.MagicLink(one, "a@example.com") },
			func(l httpapi.Throttle) error { return l.MagicLink(other, "a@example.com") },
			func(l httpapi.Throttle) error { return l.MagicLink(local, "a@example.com") },
		},
		"changes of a device": {
			httpapi.Limits{ChangesPerDevice: slow},
			func(l httpapi.Throttle) error { return l.Device("d1") },
			func(l httpapi.Throttle) error { return l.Device("d2") },
			func(l httpapi.Throttle) error { return l.User(user("d1")) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := httpapi.NewThrottle(c.limits, time.Now)
				for range 2 {
					if err := c.charge(l); err != nil {
						t.Fatal(err)
					}
				}
				limited(t, c.charge(l), 10*time.Second)
				limited(t, c.charge(l), 10*time.Second) // what is refused costs nothing
				for range 2 {
					if err := c.stranger(l); err != nil {
						t.Errorf("somebody else: %v", err)
					}
				}
				for range 20 {
					if err := c.free(l); err != nil {
						t.Fatalf("what has no limit: %v", err)
					}
				}
				time.Sleep(4 * time.Second)
				limited(t, c.charge(l), 6*time.Second)
				time.Sleep(6 * time.Second)
				if err := c.charge(l); err != nil {
					t.Errorf("after ten seconds: %v", err)
				}
				limited(t, c.charge(l), 10*time.Second)
				time.Sleep(time.Hour)
				for range 2 {
					if err := c.charge(l); err != nil {
						t.Errorf("after an hour: %v", err)
					}
				}
				limited(t, c.charge(l), 10*time.Second)
			})
		})
	}
	t.Run("without a rate there is no limit", func(t *testing.T) {
		l := httpapi.NewThrottle(httpapi.Limits{}, time.Now)
		for range 1000 {
			if err := errors.Join(l.Request(one), l.User(user("a")), l.Login(one), l.Install("i"), l.MagicLink(one, "a@example.com"), l.Device("d")); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("many at once get no more than the burst", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := httpapi.NewThrottle(httpapi.Limits{LoginsPerInstall: httpapi.Rate{PerSecond: 0.1, Burst: 7}}, time.Now)
			var passed atomic.Int64
			var group sync.WaitGroup
			for range 100 {
				group.Go(func() {
					if l.Install("i") == nil {
						passed.Add(1)
					}
				})
			}
			group.Wait()
			if n := passed.Load(); n != 7 {
				t.Errorf("%d passed", n)
			}
		})
	})
	t.Run("a storm of keys is bounded in memory, and who was refused stays so", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := httpapi.NewThrottle(httpapi.Limits{LoginsPerInstall: slow}, time.Now)
			for range 2 {
				if err := l.Install("victim"); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 200000 {
				if err := l.Install(fmt.Sprint(i)); err != nil {
					t.Fatal(err)
				}
				if i%10000 == 0 {
					limited(t, l.Install("victim"), 10*time.Second)
				}
			}
			if n := l.Buckets(); n > httpapi.MaxBuckets {
				t.Errorf("it holds %d buckets", n)
			}
		})
	})
}

// newLimitedHouse is a house with limits, none of which is used up.
func newLimitedHouse(t *testing.T, limits httpapi.Limits) (w *world, deviceID string) {
	t.Helper()
	w = newWorld(t, func(_ *httpapi.Deps, o *httpapi.Options) { o.Limits = limits })
	w.staff(t)
	deviceID = w.enroll(t, "02:00:00:00:00:01")
	w.give(t, deviceID, w.login(t, "owner", "owner@example.com"), registry.RoleOwner)
	w.give(t, deviceID, w.login(t, "viewer", "viewer@example.com"), registry.RoleViewer)
	w.login(t, "stranger", "stranger@example.com")
	w.clock.Add(time.Minute)
	return w, deviceID
}

func TestPersonIsLimitedFromWherever(t *testing.T) {
	w, _ := newLimitedHouse(t, httpapi.Limits{RequestsPerUser: httpapi.Rate{PerSecond: 0.1, Burst: 3}})
	ask := func(as, remote string) reply {
		return w.do(t, call{method: "GET", path: "/api/devices", as: as, remote: remote})
	}
	for i := range 3 {
		ask("owner", fmt.Sprintf("203.0.113.%d:1", i)).want(t, 200, "")
	}
	got := ask("owner", "127.0.0.1:1").want(t, 429, "RATE_LIMITED") // loopback is no excuse for a person
	checkRefusal(t, got)
	if got.header.Get("Retry-After") != "10" {
		t.Errorf("Retry-After is %q", got.header.Get("Retry-After"))
	}
	ask("viewer", "203.0.113.1:1").want(t, 200, "")
	w.do(t, call{method: "GET", path: "/livez"}).want(t, 200, "")
	w.clock.Add(10 * time.Second)
	ask("owner", "203.0.113.1:1").want(t, 200, "")
}

func TestChangesOfADeviceAreLimited(t *testing.T) {
	rename := func(id, as string) call {
		return call{method: "PATCH", path: "/api/devices/" + id, as: as, body: `{"name":"x"}`}
	}
	t.Run("for all who may change it together, and reading is free", func(t *testing.T) {
		w, id := newLimitedHouse(t, httpapi.Limits{ChangesPerDevice: slow})
		w.do(t, rename(id, "owner")).want(t, 200, "")
		w.do(t, call{method: "POST", path: "/admin/devices/" + id + "/disconnect", as: "support"}).want(t, 200, "")
		for _, c := range []call{
			rename(id, "owner"),
			{method: "DELETE", path: "/api/devices/" + id, as: "viewer"},
			{method: "DELETE", path: "/admin/devices/" + id, as: "admin"},
			{method: "POST", path: "/admin/devices/" + id + "/disable", as: "support"},
			{method: "POST", path: "/admin/devices/" + id + "/enable", as: "admin"},
			{method: "POST", path: "/admin/devices/" + id + "/disconnect", as: "admin"},
			{method: "POST", path: "/admin/devices/" + id + "/credentials", as: "admin", body: `{"kind":"secret","secret_hash":"` + sha256Hex("x") + `"}`},
		} {
			checkRefusal(t, w.do(t, c).want(t, 429, "RATE_LIMITED"))
		}
		w.do(t, call{method: "GET", path: "/api/devices/" + id, as: "owner"}).want(t, 200, "")
		w.clock.Add(10 * time.Second)
		w.do(t, rename(id, "owner")).want(t, 200, "")
	})
	t.Run("strangers and those with too little a role use none of them up, and see nothing of it", func(t *testing.T) {
		w, id := newLimitedHouse(t, httpapi.Limits{ChangesPerDevice: slow})
		for range 5 {
			w.do(t, rename(id, "stranger")).want(t, 404, "device_not_found")
			w.do(t, rename(id, "viewer")).want(t, 403, "insufficient_role")
		}
		w.do(t, rename(id, "owner")).want(t, 200, "")
		w.do(t, rename(id, "owner")).want(t, 200, "")
		w.do(t, rename(id, "owner")).want(t, 429, "RATE_LIMITED")
		w.do(t, rename(id, "stranger")).want(t, 404, "device_not_found")
	})
}

func TestLoginsOfAnInstallationAreLimited(t *testing.T) {
	w := newWorld(t, func(_ *httpapi.Deps, o *httpapi.Options) { o.Limits.LoginsPerInstall = slow })
	login := func(install string, n int) reply {
		return w.do(t, call{
			method: "POST", path: "/api/auth/app-token", remote: fmt.Sprintf("203.0.113.%d:1", n),
			body: `{"provider":"dev","id_token":"a@example.com","device":{"install_id":"` + install + `"}}`,
		})
	}
	login("i1", 1).want(t, 200, "")
	login("i1", 2).want(t, 200, "")
	checkRefusal(t, login("i1", 3).want(t, 429, "RATE_LIMITED"))
	login("i2", 1).want(t, 200, "")
	for n := range 5 {
		login("", n).want(t, 200, "")
	}
}

// X-Forwarded-For is the client's own word but behind a trusted proxy, for each of
// the limits that count by address.
func TestForwardedAddressesDoNotEscapeLimits(t *testing.T) {
	login := func(remote, forwarded string) call {
		c := call{method: "POST", path: "/admin/auth/login", remote: remote, body: `{"email":"nobody@example.com","password":"wrong"}`}
		if forwarded != "" {
			c.header = map[string]string{"Content-Type": "application/json", "X-Forwarded-For": forwarded}
		}
		return c
	}
	for name, limits := range map[string]httpapi.Limits{"logins": {LoginsPerAddress: slow}, "requests": {RequestsPerAddress: slow}} {
		for attack, c := range map[string]struct {
			remote    string
			forwarded func(n int) string
		}{
			"a stranger invents clients":                  {"203.0.113.9:1", func(n int) string { return fmt.Sprintf("192.0.2.%d", n) }},
			"a stranger claims to be loopback":            {"203.0.113.9:1", func(int) string { return "127.0.0.1" }},
			"a client puts inventions before its own":     {"10.0.0.1:1", func(n int) string { return fmt.Sprintf("192.0.2.%d, 198.51.100.7", n) }},
			"a client puts loopback before its own":       {"10.0.0.1:1", func(int) string { return "127.0.0.1, 198.51.100.7" }},
			"a client puts trusted addresses before it":   {"10.0.0.1:1", func(n int) string { return fmt.Sprintf("10.9.9.%d,198.51.100.7", n) }},
			"a client moves within its IPv6 network":      {"10.0.0.1:1", func(n int) string { return fmt.Sprintf("2001:db8::%x", n+1) }},
			"a client writes its address in another form": {"10.0.0.1:1", func(n int) string { return []string{"198.51.100.7", "::ffff:198.51.100.7", " 198.51.100.7 "}[n%3] }},
		} {
			t.Run(name+" when "+attack, func(t *testing.T) {
				w := newWorld(t, func(_ *httpapi.Deps, o *httpapi.Options) {
					o.Limits = limits
					o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
				})
				for n := range 2 {
					if got := w.do(t, login(c.remote, c.forwarded(n))); got.status == http.StatusTooManyRequests {
						t.Fatalf("attempt %d: %s", n, got.raw)
					}
				}
				for n := range 4 {
					checkRefusal(t, w.do(t, login(c.remote, c.forwarded(n+2))).want(t, 429, "RATE_LIMITED"))
				}
			})
		}
	}
}
