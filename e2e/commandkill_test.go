package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// obedient is a device that remembers the commands that it has done, as if in flash.
type obedient struct {
	Device
	c       *Cloud
	version mqttwire.Version
	away    atomic.Bool // switched off

	mu       sync.Mutex
	known    map[string]bool // command ids
	done     map[int]int     // the number of what was asked for -> how often it was done
	received int             // deliveries, repeated ones too
	late     []string        // delivered after their time
}

// live is the device's life: it connects whenever it can.
func (o *obedient) live(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		if !o.away.Load() {
			o.session(ctx)
		}
		time.Sleep(time.Duration(20+rng.IntN(80)) * time.Millisecond) // until the next attempt
	}
}

func (o *obedient) session(ctx context.Context) {
	client, _, err := o.c.try(deviceHello(o.Device, o.version))
	if err != nil {
		return // the cloud is down
	}
	defer client.Close()
	if _, err := client.Subscribe(mqttwire.Filter{Topic: o.Topic("command/+"), QoS: 1}); err != nil {
		return
	}
	for ctx.Err() == nil && !o.away.Load() {
		p, err := client.Next(100 * time.Millisecond)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return
		}
		var got struct {
			ID      string    `json:"command_id"`
			Expires time.Time `json:"expires_at"`
			Params  struct{ N int }
		}
		if json.Unmarshal(p.Payload, &got) != nil || got.ID == "" {
			continue
		}
		o.mu.Lock()
		o.received++
		if overdue := time.Since(got.Expires); overdue > time.Second { // what the way may take on a busy machine
			o.late = append(o.late, fmt.Sprintf("%s by %v", got.ID, overdue))
		}
		if !o.known[got.ID] {
			o.known[got.ID] = true
			o.done[got.Params.N]++
		}
		o.mu.Unlock()
		answer := fmt.Appendf(nil, `{"command_id":%q,"status":"succeeded"}`, got.ID)
		if _, err := client.Publish(mqttwire.Message{Topic: o.Topic("command/response"), Payload: answer, QoS: 1}); err != nil {
			return
		}
	}
}

// promise is a command that the cloud has taken.
type promise struct {
	to    *obedient
	id    string
	n     int
	short bool // its time is a second
}

// TestCommandsSurviveKills kills the process at random moments while commands are sent
// to devices that are there, come and go: what was taken is not lost, a device that
// recognises ids does nothing twice, nothing comes after its time, and nothing of
// somebody who has lost the right.
func TestCommandsSurviveKills(t *testing.T) {
	const devices = 16
	commands, kills := scale(200, 4000), scale(5, 50) // the kills hit commands on their way
	rng := seeded(t)
	c := Start(t, Options{Process: true, Env: map[string]string{"LOG_LEVEL": "info"}})
	admin := c.AdminToken()
	clients := c.For(t) // keeps its addresses while c starts again on the same ones
	ctx, stop := context.WithCancel(context.Background())
	var lives sync.WaitGroup
	defer func() {
		stop()
		lives.Wait()
	}()
	var all []*obedient
	for i, d := range c.enrollMany(t, admin, devices) {
		o := &obedient{Device: d, c: clients, version: bothVersions[i%2], known: map[string]bool{}, done: map[int]int{}}
		all = append(all, o)
		own := rand.New(rand.NewPCG(rng.Uint64(), 7))
		lives.Go(func() { o.live(ctx, own) })
	}
	// Somebody who will have given the device up before it comes online.
	lost := &obedient{Device: c.EnrollAs(admin), c: clients, version: mqttwire.V311, known: map[string]bool{}, done: map[int]int{}}
	former := c.ownerOf(t, lost.Device)
	for i := range 3 {
		c.send(lost.Device, former.Token, fmt.Sprint("former", i), "sing", map[string]any{"ttlSec": 3600})
	}

	taken := make(chan promise, commands)
	var senders sync.WaitGroup
	for s := range 4 {
		own := rand.New(rand.NewPCG(rng.Uint64(), uint64(s)))
		senders.Go(func() {
			for i := s; i < commands; i += 4 {
				o, short := all[i%devices], i%10 == 9
				body := map[string]any{"requestId": fmt.Sprint("r", i), "type": "sing", "ttlSec": 3600, "params": map[string]any{"n": i}}
				if short {
					body["ttlSec"] = 1
				}
				if own.IntN(4) == 0 {
					o.away.Store(!o.away.Load())
				}
				for ctx.Err() == nil { // the same request, until it is answered
					status, text, err := clients.request(http.MethodPost, "/api/devices/"+o.ID+"/commands", admin, body)
					var v commandView
					if err == nil && (status == 200 || status == 202) && json.Unmarshal(text, &v) == nil {
						taken <- promise{o, v.ID, i, short}
						break
					}
					if err == nil && status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable && status != http.StatusUnauthorized {
						t.Errorf("command %d: %d %s", i, status, text)
						break
					}
					if err == nil && status == http.StatusTooManyRequests {
						o.away.Store(false) // its queue is full
					}
					time.Sleep(50 * time.Millisecond) // until the next attempt
				}
				time.Sleep(time.Duration(own.IntN(60)) * time.Millisecond) // a person's pause
			}
		})
	}
	for range kills {
		time.Sleep(time.Duration(100+rng.IntN(900)) * time.Millisecond) // the random moment
		c.Kill()
		c.Restart()
	}
	senders.Wait()
	close(taken)
	for _, o := range all {
		o.away.Store(false)
	}
	admin = c.AdminToken()
	former = c.UserToken(former.Email)
	if status := c.Do(http.MethodDelete, "/api/devices/"+lost.ID, former.Token, nil, nil); status != 200 {
		t.Fatalf("giving up the device: %d", status)
	}
	lives.Go(func() { lost.live(ctx, rng) })

	n, expired := 0, 0
	for p := range taken {
		n++
		var v commandView
		Await(t, 60*time.Second, func() bool {
			status := c.Do(http.MethodGet, "/api/devices/"+p.to.ID+"/commands/"+p.id, admin, nil, &v)
			if status != http.StatusOK {
				t.Fatalf("command %s is lost: %d", p.id, status)
			}
			p.to.mu.Lock()
			defer p.to.mu.Unlock()
			if p.to.done[p.n] > 1 {
				t.Fatalf("what command %s asks for was done %d times", p.id, p.to.done[p.n])
			}
			return v.Status == "succeeded" || p.short && (v.Status == "expired" || v.Status == "timed_out")
		}, func() string { return fmt.Sprintf("the command is %+v", v) })
		p.to.mu.Lock()
		done := p.to.done[p.n]
		p.to.mu.Unlock()
		switch {
		case v.Status == "succeeded" && done != 1:
			t.Errorf("%s has succeeded and was done %d times", p.id, done)
		case v.Status == "expired":
			if expired++; done != 0 {
				t.Errorf("%s has expired and was done", p.id)
			}
		}
	}
	deliveries := 0
	for _, o := range all {
		o.mu.Lock()
		deliveries += o.received
		for _, late := range o.late {
			t.Errorf("delivered after its time: %s", late)
		}
		o.mu.Unlock()
	}
	Await(t, 15*time.Second, func() bool { return c.Look(lost.Device, admin).Online }, func() string { return "the lost device does not come" })
	time.Sleep(500 * time.Millisecond) // more than the pace of commands: what would come has come
	lost.mu.Lock()
	defer lost.mu.Unlock()
	if lost.received != 0 {
		t.Errorf("%d commands came from somebody who had lost the right", lost.received)
	}
	if n != commands {
		t.Errorf("%d commands were taken, want %d", n, commands)
	}
	t.Logf("%d commands, %d kills, %d deliveries, %d expired", n, kills, deliveries, expired)
}

// ownerOf makes a person the owner of a device, by purchase and a first provisioning.
func (c *Cloud) ownerOf(t *testing.T, d Device) User {
	t.Helper()
	owner := c.UserToken("owner-" + d.ID[:8] + "@example.com")
	c.Sell(d, owner.Email)
	client := c.open(t, deviceHello(d, mqttwire.V311))
	if _, err := client.Publish(mqttwire.Message{Topic: d.Topic("provision"), Payload: provisionPayload(d), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	if err := client.Disconnect(); err != nil {
		t.Fatal(err)
	}
	return owner
}
