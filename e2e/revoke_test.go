package e2e_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// revocations are the ways to take a device's right to be connected.
var revocations = []struct {
	name string
	code mqttwire.ReasonCode
	do   func(*Cloud, Device, string) int
}{
	{"disabling", mqttwire.NotAuthorized, func(c *Cloud, d Device, admin string) int {
		return c.Do(http.MethodPost, "/admin/devices/"+d.ID+"/disable", admin, nil, nil)
	}},
	{"deleting", mqttwire.NotAuthorized, func(c *Cloud, d Device, admin string) int {
		return c.Do(http.MethodDelete, "/admin/devices/"+d.ID, admin, nil, nil)
	}},
	{"rotating the credential of", mqttwire.NotAuthorized, func(c *Cloud, d Device, admin string) int {
		hash := sha256.Sum256([]byte("another secret of 32 characters!"))
		return c.Do(http.MethodPost, "/admin/devices/"+d.ID+"/credentials", admin,
			map[string]any{"kind": "secret", "secret_hash": hex.EncodeToString(hash[:]), "retire_old_after_sec": 0}, nil)
	}},
}

func TestRevocationEndsTheSessionWithinASecond(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	admin := c.AdminToken()
	for _, r := range revocations {
		for _, v := range bothVersions {
			t.Run(r.name+" a device, with MQTT "+v.String(), func(t *testing.T) {
				d := c.EnrollAs(admin)
				client := c.open(t, deviceHello(d, v))
				if err := report(client, d, 1); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				if status := r.do(c, d, admin); status/100 != 2 {
					t.Fatalf("it answers %d", status)
				}
				code, closed := closedWithin(client, time.Second)
				if !closed || v == mqttwire.V5 && code != r.code {
					t.Errorf("closed %t after %v with %v, want %v within a second", closed, time.Since(began), code, r.code)
				}
				if _, _, err := c.try(deviceHello(d, v)); refusalCode(err) != mqttwire.BadUserNameOrPassword && refusalCode(err) != mqttwire.Refused311Credential {
					t.Errorf("it comes back: %v", err)
				}
				if r.name != "deleting" {
					c.AwaitDevice(d, admin, "offline because of its credential", func(v DeviceView) bool {
						return v.Status == "offline" && v.StatusReason == "credential_revoked"
					})
				}
			})
		}
	}
	t.Run("disconnecting a device ends the session, which may come back", func(t *testing.T) {
		d := c.EnrollAs(admin)
		client := c.open(t, deviceHello(d, mqttwire.V5))
		c.Post("/admin/devices/"+d.ID+"/disconnect", admin, nil, nil)
		if code, closed := closedWithin(client, time.Second); !closed || code != mqttwire.AdministrativeAction {
			t.Errorf("closed %t with %v, want 0x98", closed, code)
		}
		c.open(t, deviceHello(d, mqttwire.V5))
	})
	t.Run("a rotation with a grace lets the old credential live until then", func(t *testing.T) {
		d := c.EnrollAs(admin)
		client := c.open(t, deviceHello(d, mqttwire.V5))
		renewed := d
		renewed.Secret = "the renewed secret of the device"
		hash := sha256.Sum256([]byte(renewed.Secret))
		c.Post("/admin/devices/"+d.ID+"/credentials", admin, map[string]any{"kind": "secret", "secret_hash": hex.EncodeToString(hash[:]), "retire_old_after_sec": 2}, nil)
		began := time.Now()
		if err := client.Ping(); err != nil {
			t.Errorf("the old credential's session ended at once: %v", err)
		}
		code, closed := closedWithin(client, stretch*time.Second)
		if took := time.Since(began); !closed || took < time.Second || took > 3*time.Second {
			t.Errorf("it ended (%t) after %v with %v, want 2 s", closed, took, code)
		}
		if _, _, err := c.try(deviceHello(d, mqttwire.V5)); refusalCode(err) != mqttwire.BadUserNameOrPassword {
			t.Errorf("the old secret after its end: %v", err)
		}
		c.open(t, deviceHello(renewed, mqttwire.V5))
	})
}

// TestRevocationDuringAcceptance revokes while connections are being accepted: a
// CONNECT that has passed the credential check must not outlive it.
func TestRevocationDuringAcceptance(t *testing.T) {
	const rounds, callers = 6, 8
	rng := seeded(t)
	c := Start(t, Options{})
	admin := c.AdminToken()
	for _, r := range revocations {
		t.Run(r.name+" a device", func(t *testing.T) {
			for range rounds {
				d := c.EnrollAs(admin)
				var revoked atomic.Bool
				var mu sync.Mutex
				var live []*mqttwire.Client
				late := 0
				stop := make(chan struct{})
				var group sync.WaitGroup
				for i := range callers {
					group.Go(func() {
						for {
							select {
							case <-stop:
								return
							default:
							}
							after := revoked.Load()
							client, _, err := c.try(deviceHello(d, bothVersions[i%2]))
							mu.Lock()
							if err == nil {
								live = append(live, client)
								if after {
									late++
								}
							}
							mu.Unlock()
						}
					})
				}
				Await(t, stretch*time.Second, func() bool {
					mu.Lock()
					defer mu.Unlock()
					return len(live) > 0
				}, func() string { return "nobody gets in" })
				time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond) // the moment is the test's choice
				if status := r.do(c, d, admin); status/100 != 2 {
					t.Fatalf("it answers %d", status)
				}
				revoked.Store(true)
				ended := time.Now()
				for time.Since(ended) < 100*time.Millisecond { // more tries, all too late
					if _, _, err := c.try(deviceHello(d, mqttwire.V5)); err == nil {
						t.Error("a CONNECT after the answer is accepted")
					}
				}
				close(stop)
				group.Wait()
				if late > 0 {
					t.Errorf("%d CONNECTs that began after the answer were accepted", late)
				}
				deadline := ended.Add(time.Second + 500*time.Millisecond)
				for _, client := range live {
					if _, closed := closedWithin(client, time.Until(deadline)); !closed {
						t.Errorf("a session lives %v after the revocation", time.Since(ended))
					}
					_ = client.Close()
				}
				if len(live) == 0 {
					t.Error("nobody connected before the revocation: nothing was tested")
				}
			}
		})
	}
}

// share gives a person a share of a device: staff invites them, and they accept.
func (c *Cloud) share(t *testing.T, d Device, u User) {
	t.Helper()
	c.For(t).Post("/api/devices/"+d.ID+"/share", c.AdminToken(), map[string]string{"user_email": u.Email, "role": "viewer"}, nil)
	c.accept(t, u)
}

func TestLosingAccessEndsDeliveryWithinASecond(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	admin := c.AdminToken()
	d, other := c.EnrollAs(admin), c.EnrollAs(admin)
	owner := c.owned(t, admin, "owner@example.com", d)
	viewer := c.owned(t, admin, "viewer@example.com", other)
	device := c.open(t, deviceHello(d, mqttwire.V311))

	// listen subscribes by name, and by wildcard, with a session that is kept.
	listen := func(t *testing.T, u User, v mqttwire.Version) *mqttwire.Client {
		t.Helper()
		hello := personHello(u, "app"+v.String(), v)
		hello.Resume = true
		app := c.open(t, hello, mqttwire.Number(mqttwire.PropSessionExpiry, 600))
		subscribe(t, app, mqttwire.Filter{Topic: d.Topic("telemetry"), QoS: 1}, mqttwire.Filter{Topic: topicRoot + "/+/telemetry", QoS: 1})
		return app
	}
	n := 0
	tell := func(t *testing.T) {
		t.Helper()
		n++
		_, err := device.Publish(mqttwire.Message{Topic: d.Topic("telemetry"), QoS: 1, Payload: fmt.Appendf(nil, `{"device_id":%q,"timestamp":"2026-01-15T10:00:00Z","metrics":{"n":%d}}`, d.ID, n)})
		if err != nil {
			t.Fatal(err)
		}
	}
	// deaf waits until nothing comes any more, for at most a second, and then makes
	// sure of it.
	deaf := func(t *testing.T, apps ...*mqttwire.Client) {
		t.Helper()
		time.Sleep(time.Second) // the limit itself
		for _, app := range apps {
			for {
				if _, err := app.Next(10 * time.Millisecond); err != nil {
					break
				}
			}
		}
		for range 5 {
			tell(t)
		}
		for _, app := range apps {
			silence(t, app, "a message to somebody who has lost access")
		}
	}
	for _, v := range bothVersions {
		t.Run("leaving a share, with MQTT "+v.String(), func(t *testing.T) {
			c.share(t, d, viewer)
			app, owners := listen(t, viewer, v), listen(t, owner, v)
			tell(t)
			next(t, app)
			next(t, owners)
			if status := c.Do(http.MethodDelete, "/api/devices/"+d.ID, viewer.Token, nil, nil); status != http.StatusOK {
				t.Fatalf("it answers %d", status)
			}
			deaf(t, app)
			if p := next(t, owners); number(p) < 0 {
				t.Errorf("the owner hears %s", p.Payload)
			}
			if _, err := app.Subscribe(mqttwire.Filter{Topic: d.Topic("state")}); refusalCode(err) == 0 {
				t.Errorf("a new subscription is answered %v", err)
			}
			// What queues for a kept session is checked when it comes back.
			_ = app.Close()
			tell(t)
			hello := personHello(viewer, "app"+v.String(), v)
			hello.Resume = true
			back, ack, err := c.try(hello, mqttwire.Number(mqttwire.PropSessionExpiry, 600))
			if err != nil || !ack.SessionPresent {
				t.Fatalf("%+v, %v", ack, err)
			}
			defer back.Close()
			silence(t, back, "the queue of a kept session")
		})
	}
	t.Run("giving up ownership ends everybody's", func(t *testing.T) {
		c.share(t, d, viewer)
		apps := []*mqttwire.Client{listen(t, viewer, mqttwire.V5), listen(t, owner, mqttwire.V311)}
		tell(t)
		for _, app := range apps {
			next(t, app)
		}
		if status := c.Do(http.MethodDelete, "/api/devices/"+d.ID, owner.Token, nil, nil); status != http.StatusOK {
			t.Fatalf("it answers %d", status)
		}
		deaf(t, apps...)
		if err := device.Ping(); err != nil {
			t.Errorf("the device, which did nothing: %v", err)
		}
	})
}

func TestRetainedStateOfADeletedDeviceIsServedToNobody(t *testing.T) {
	t.Parallel()
	f := newFleetOfOne(t)
	device := f.open(t, deviceHello(f.device, mqttwire.V311))
	if err := report(device, f.device, 1); err != nil {
		t.Fatal(err)
	}
	app := f.open(t, staffHello(f.staff(t), "app", mqttwire.V5))
	filter := mqttwire.Filter{Topic: f.device.Topic("state")}
	subscribe(t, app, filter)
	next(t, app)
	if status := f.Do(http.MethodDelete, "/admin/devices/"+f.device.ID, f.admin, nil, nil); status != http.StatusOK {
		t.Fatalf("it answers %d", status)
	}
	if _, err := app.Unsubscribe(filter.Topic); err != nil {
		t.Fatal(err)
	}
	for p, err := app.Next(100 * time.Millisecond); err == nil; p, err = app.Next(100 * time.Millisecond) {
		if p.Retain {
			t.Errorf("a retained message: %s", p.Payload)
		}
	}
	subscribe(t, app, filter)
	silence(t, app, "the state of a device that was deleted")
}
