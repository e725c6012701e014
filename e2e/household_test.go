package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/fleet"
	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// invited lists the open invitations to a person.
func (c *Cloud) invited(t *testing.T, u User) (ids []string) {
	t.Helper()
	var answer struct {
		Invitations []struct {
			ID string `json:"invitation_id"`
		}
	}
	c.For(t).Get("/api/invitations", u.Token, &answer)
	for _, i := range answer.Invitations {
		ids = append(ids, i.ID)
	}
	return ids
}

// accept accepts the newest invitation to a person.
func (c *Cloud) accept(t *testing.T, u User) {
	t.Helper()
	ids := c.invited(t, u)
	if len(ids) == 0 {
		t.Fatalf("%s is not invited", u.Email)
	}
	c.For(t).Post("/api/invitations/"+ids[0]+"/accept", u.Token, nil, nil)
}

// roleOf is what a person is to a device, as they see it; "" when they do not.
func (c *Cloud) roleOf(t *testing.T, u User, d Device) string {
	t.Helper()
	var answer struct{ Role string }
	if status := c.Do(http.MethodGet, "/api/devices/"+d.ID, u.Token, nil, &answer); status != http.StatusOK && status != http.StatusNotFound {
		t.Fatalf("it answers %d", status)
	}
	return answer.Role
}

// observer is an app of a person that listens over MQTT and over HTTP.
type observer struct {
	app  *mqttwire.Client
	feed *liveStream
}

func (c *Cloud) observe(t *testing.T, u User, d Device) observer {
	t.Helper()
	w := observer{c.open(t, personHello(u, "household", mqttwire.V5)), c.stream(t, u.Token, "", "")}
	subscribe(t, w.app, mqttwire.Filter{Topic: topicRoot + "/+/telemetry", QoS: 1})
	w.feed.until("stream.snapshot")
	return w
}

// deaf checks that within a second of began nothing of a device comes any more, times
// the patience of a slow machine: the stream tells that it is lost, and after the limit
// the app hears nothing that the device says.
func (w observer) deaf(t *testing.T, began time.Time, device *mqttwire.Client, d Device) {
	t.Helper()
	if e := w.feed.until("device.released"); e.deviceID() != d.ID || time.Since(began) > stretch*time.Second {
		t.Errorf("%v later it hears %+v", time.Since(began), e)
	}
	time.Sleep(time.Until(began.Add(time.Second))) // the limit itself
	for p, err := w.app.Next(50 * time.Millisecond); err == nil; p, err = w.app.Next(50 * time.Millisecond) {
		t.Logf("on the way: %s", p.Payload)
	}
	for n := range 3 {
		tellTelemetry(t, device, d, 100+n)
		if err := report(device, d, 1000+n); err != nil {
			t.Fatal(err)
		}
	}
	silence(t, w.app, "a message of a device that was lost")
	for {
		select {
		case e := <-w.feed.events:
			if e.deviceID() == d.ID {
				t.Errorf("the stream still tells %+v", e)
			}
			continue
		default:
		}
		return
	}
}

// tellTelemetry lets a device say something.
func tellTelemetry(t *testing.T, device *mqttwire.Client, d Device, n int) {
	t.Helper()
	_, err := device.Publish(mqttwire.Message{Topic: d.Topic("telemetry"), QoS: 1, Payload: fmt.Appendf(nil, `{"device_id":%q,"timestamp":"2026-01-15T10:00:00Z","metrics":{"n":%d}}`, d.ID, n)})
	if err != nil {
		t.Fatal(err)
	}
}

// obey takes one command and says that it is done.
func obey(device *mqttwire.Client, d Device) error {
	if _, err := device.Subscribe(mqttwire.Filter{Topic: d.Topic("command/+"), QoS: 1}); err != nil {
		return err
	}
	p, err := device.Next(stretch * 5 * time.Second)
	if err != nil {
		return fmt.Errorf("no command comes: %w", err)
	}
	var command struct {
		ID string `json:"command_id"`
	}
	if err := json.Unmarshal(p.Payload, &command); err != nil {
		return err
	}
	answer := fmt.Appendf(nil, `{"command_id":%q,"status":"succeeded"}`, command.ID)
	_, err = device.Publish(mqttwire.Message{Topic: d.Topic("command/response"), Payload: answer, QoS: 1})
	return err
}

// TestAHousehold buys a device, sets it up, shares it, takes the share back, commands
// it, shares it for a while, and gives the device away, as apps and devices do.
func TestAHousehold(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	d := c.Enroll()
	buyer, guest, heir := c.UserToken("buyer@example.com"), c.UserToken("guest@example.com"), c.UserToken("heir@example.com")
	orders := "order_id,user_email,device_mac,shipped_at\n1001," + buyer.Email + "," + d.MAC + ",2026-01-02T03:04:05Z\n"
	if r := c.exchange(t, request{http.MethodPost, "/admin/orders/import", c.AdminToken(), "text/csv", orders}); r.status != http.StatusOK {
		t.Fatalf("the orders: %d %s", r.status, r.body)
	}
	device := c.open(t, deviceHello(d, mqttwire.V311))
	if err := exchange(device, d); err != nil {
		t.Fatal(err)
	}
	if r := c.roleOf(t, buyer, d); r != "owner" {
		t.Fatalf("after the set-up the buyer is %q", r)
	}
	if status := c.Do(http.MethodPatch, "/api/devices/"+d.ID, buyer.Token, object{"name": "Hall"}, nil); status != http.StatusOK {
		t.Fatalf("renamed: %d", status)
	}
	share := func(body object) {
		t.Helper()
		body["user_email"], body["role"] = guest.Email, "viewer"
		c.Post("/api/devices/"+d.ID+"/share", buyer.Token, body, nil)
		c.accept(t, guest)
	}
	t.Run("a share that is revoked ends within a second", func(t *testing.T) {
		share(object{})
		w := c.observe(t, guest, d)
		tellTelemetry(t, device, d, 1)
		next(t, w.app)
		began := time.Now()
		if status := c.Do(http.MethodDelete, "/api/devices/"+d.ID+"/shares/"+guest.ID, buyer.Token, nil, nil); status != http.StatusOK {
			t.Fatalf("revoked: %d", status)
		}
		w.deaf(t, began, device, d)
		if r := c.roleOf(t, guest, d); r != "" {
			t.Errorf("the guest is %q", r)
		}
	})
	t.Run("whom it is shared with to look may not command it, and the owner has an answer at once", func(t *testing.T) {
		share(object{})
		ask := func(u User) (status int, v commandView) {
			status = c.For(t).Do(http.MethodPost, "/api/devices/"+d.ID+"/commands", u.Token, object{"requestId": "find", "type": "identify", "wait": 25}, &v)
			return status, v
		}
		if status, v := ask(guest); status != http.StatusForbidden || v.Error != "insufficient_role" {
			t.Errorf("the guest's command: %d %+v", status, v)
		}
		done := make(chan error, 1)
		go func() { done <- obey(device, d) }()
		if status, v := ask(buyer); status != http.StatusOK || v.Status != "succeeded" || v.RequestID != "find" {
			t.Errorf("the owner's command: %d %+v", status, v)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if status := c.Do(http.MethodDelete, "/api/devices/"+d.ID+"/shares/"+guest.ID, buyer.Token, nil, nil); status != http.StatusOK {
			t.Fatalf("revoked: %d", status)
		}
	})
	t.Run("a share begins and ends by itself, within a second", func(t *testing.T) {
		begin, end := time.Now().Add(2*time.Second), time.Now().Add(5*time.Second)
		share(object{"starts_at": begin, "ends_at": end})
		if r := c.roleOf(t, guest, d); r != "" {
			t.Errorf("before it begins the guest is %q", r)
		}
		w := c.observe(t, guest, d)
		if e := w.feed.until("device.shared"); e.Data["starts_at"] == nil {
			t.Fatalf("it hears %+v", e)
		}
		if late := time.Since(begin); late < 0 || late > stretch*time.Second {
			t.Errorf("it begins %v after its time", late)
		}
		heard := false
		for n := 0; !heard && time.Now().Before(end); n++ {
			tellTelemetry(t, device, d, n)
			_, err := w.app.Next(100 * time.Millisecond)
			heard = err == nil
		}
		if !heard {
			t.Error("the app never hears the device while it is shared")
		}
		w.deaf(t, end, device, d)
	})
	t.Run("a transfer takes the device from everybody but the new owner", func(t *testing.T) {
		share(object{})
		w, former := c.observe(t, guest, d), c.observe(t, buyer, d)
		c.Post("/api/devices/"+d.ID+"/transfer", buyer.Token, object{"user_email": heir.Email}, nil)
		began := time.Now()
		c.accept(t, heir)
		w.deaf(t, began, device, d)
		former.deaf(t, began, device, d)
		for _, p := range []struct {
			user User
			want string
		}{{buyer, ""}, {guest, ""}, {heir, "owner"}} {
			if got := c.roleOf(t, p.user, d); got != p.want {
				t.Errorf("%s is %q, want %q", p.user.Email, got, p.want)
			}
		}
		var view struct{ Name *string }
		c.Get("/api/devices/"+d.ID, heir.Token, &view)
		if view.Name != nil {
			t.Errorf("the name that the buyer gave it is still %q", *view.Name)
		}
	})
}

// Whatever people ask for at once, the device keeps exactly one owner.
func TestTheOwnerNeverVanishes(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	admin := c.AdminToken()
	d := c.EnrollAs(admin)
	one := c.owned(t, admin, "one@example.com", d)
	two := c.UserToken("two@example.com")
	for round := range 8 {
		owner, other := one, two
		if round%2 == 1 {
			owner, other = two, one
		}
		device := "/api/devices/" + d.ID
		c.Post(device+"/transfer", owner.Token, object{"user_email": other.Email}, nil)
		accept := "/api/invitations/" + c.invited(t, other)[0] + "/accept"
		asks := []struct {
			path, token string
			body        any
		}{
			{accept, other.Token, nil},
			{accept, other.Token, nil},
			{device + "/share", owner.Token, object{"user_email": other.Email, "role": "viewer"}},
			{device + "/share", other.Token, object{"user_email": owner.Email, "role": "viewer"}},
			{device + "/share", admin, object{"user_email": other.Email, "role": "admin"}},
			{"/admin/devices/claim", admin, object{"device_id": d.ID, "user_id": other.ID}},
		}
		answers := c.atOnce(len(asks), func(i int) (string, string, any) { return asks[i].path, asks[i].token, asks[i].body })
		if view := c.Look(d, admin); view.Owner == nil || view.Owner.UserID != other.ID {
			t.Fatalf("round %d: the owner is %+v; answers %v", round, view.Owner, answers)
		}
		for _, id := range append(c.invited(t, one), c.invited(t, two)...) {
			for _, u := range []User{one, two} {
				_ = c.Do(http.MethodPost, "/api/invitations/"+id+"/decline", u.Token, nil, nil)
			}
		}
	}
}

// atOnce sends a request for each of n at once, and counts the answers.
func (c *Cloud) atOnce(n int, ask func(i int) (path, token string, body any)) map[int]int {
	var mu sync.Mutex
	var wg sync.WaitGroup
	answers := map[int]int{}
	for i := range n {
		wg.Go(func() {
			path, token, body := ask(i)
			status := c.Do(http.MethodPost, path, token, body, nil)
			mu.Lock()
			defer mu.Unlock()
			answers[status]++
		})
	}
	wg.Wait()
	return answers
}

func TestClaimsRace(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Env: map[string]string{"MAX_DEVICES_PER_USER": "50"}})
	admin := c.AdminToken()
	labelled := func(index int) Device {
		id := fleet.NewIdentity(77, index, "opticworks-rs1")
		c.Post("/admin/enroll", admin, object{"mac_address": id.MAC, "device_secret_hash": id.SecretHash(), "claim_secret_hash": id.ClaimSecretHash()}, nil)
		return Device{ID: id.DeviceID, MAC: id.MAC, Secret: id.Secret}
	}
	t.Run("50 people claim one device by its label, and one gets it", func(t *testing.T) {
		d := labelled(0)
		if err := Provision(c.Connect(d), d); err != nil {
			t.Fatal(err)
		}
		people := make([]User, 50)
		for i := range people {
			people[i] = c.UserToken(fmt.Sprintf("racer-%d@example.com", i))
		}
		secret := fleet.NewIdentity(77, 0, "opticworks-rs1").ClaimSecret
		answers := c.atOnce(len(people), func(i int) (string, string, any) {
			return "/api/devices/activate", people[i].Token, object{"device_id": d.ID, "claim_secret": secret}
		})
		if answers[http.StatusCreated] != 1 || answers[http.StatusForbidden] != 49 {
			t.Errorf("answers %v", answers)
		}
		owners := 0
		for _, u := range people {
			if c.roleOf(t, u, d) == "owner" {
				owners++
			}
		}
		if owners != 1 {
			t.Errorf("%d owners", owners)
		}
	})
	t.Run("60 claims of one person end at 50", func(t *testing.T) {
		u := c.UserToken("collector@example.com")
		devices := make([]Device, 60)
		for i := range devices {
			devices[i] = labelled(i + 1)
		}
		answers := c.atOnce(len(devices), func(i int) (string, string, any) {
			return "/admin/devices/claim", admin, object{"device_id": devices[i].ID, "user_id": u.ID}
		})
		if answers[http.StatusCreated] != 50 || answers[http.StatusConflict] != 10 {
			t.Errorf("answers %v", answers)
		}
	})
}

// TestTheSimulatorIsClaimed lets the simulator's firmware present a pairing code, and
// then press its button.
func TestTheSimulatorIsClaimed(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	admin, u := c.AdminToken(), c.UserToken("owner@example.com")
	play := func(t *testing.T, index int, life fleet.Behaviour) Device {
		t.Helper()
		id := fleet.NewIdentity(78, index, "opticworks-rs1")
		d := Device{ID: id.DeviceID, MAC: id.MAC, Secret: id.Secret}
		c.For(t).Post("/admin/enroll", admin, object{"mac_address": id.MAC, "device_secret_hash": id.SecretHash()}, nil)
		o := fleet.Options{
			Behaviour: life, URL: "mqtt://" + c.MQTT(), Devices: 1,
		}
		if err := o.Complete(); err != nil {
			t.Fatal(err)
		}
		dial, err := fleet.NewDialer(o.URL, nil, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		device := fleet.NewDevice(id, 0, 78, &o.Behaviour, dial, &fleet.Stats{})
		go func() {
			defer close(done)
			device.Run(ctx)
		}()
		t.Cleanup(func() { stop(); <-done })
		return d
	}
	settled := func(t *testing.T, claim string) {
		t.Helper()
		var answer struct{ Status string }
		Await(t, 30*time.Second, func() bool {
			return c.Do(http.MethodGet, "/api/devices/claims/"+claim, u.Token, nil, &answer) == http.StatusOK && answer.Status != "pending"
		}, func() string { return "the claim is " + answer.Status })
		if answer.Status != "claimed" {
			t.Errorf("the claim is %s", answer.Status)
		}
	}
	var claim struct {
		ID   string `json:"claim_id"`
		Code string
	}
	t.Run("by a pairing code", func(t *testing.T) {
		c.For(t).Post("/api/devices/claims", u.Token, nil, &claim)
		d := play(t, 0, fleet.Behaviour{ClaimCode: claim.Code})
		settled(t, claim.ID)
		if r := c.roleOf(t, u, d); r != "owner" {
			t.Errorf("they are %q", r)
		}
	})
	t.Run("by its button", func(t *testing.T) {
		d := play(t, 1, fleet.Behaviour{PressButton: true, Auth: fleet.AuthHMAC})
		c.AwaitDevice(d, admin, "set up", func(v DeviceView) bool { return v.Provisioned != nil })
		c.For(t).Post("/api/devices/"+d.ID+"/claim-challenge", u.Token, nil, &claim)
		settled(t, claim.ID)
		if r := c.roleOf(t, u, d); r != "owner" {
			t.Errorf("they are %q", r)
		}
	})
}
