package registry_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

const labelSecret = "canary-label-secret-of-16-bytes"

// labelled enrols a device with a label, and sets it up.
func (h *house) labelled(n int) (device, *registry.Session) {
	h.t.Helper()
	d := newDevice(n)
	sum := sha256.Sum256([]byte(labelSecret))
	_, err := h.Enroll(ctx, admin, registry.EnrollRequest{MACAddress: d.mac, DeviceSecretHash: d.hash(), ClaimSecretHash: hex.EncodeToString(sum[:])})
	if err != nil {
		h.t.Fatal(err)
	}
	s := h.connect(d)
	h.provision(s, d)
	return d, s
}

func (h *house) activate(user string, d device, secret registry.ClaimSecret) (registry.Claimed, error) {
	return h.ActivateDevice(ctx, person(user), registry.ActivateRequest{DeviceID: d.id, Secret: secret})
}

// proof is what a device proves of a claim.
func (d device) proof(about string) string {
	key := sha256.Sum256([]byte(d.secret))
	return hex.EncodeToString(registry.BindingProof(key[:], "bind:v1:"+d.id+":"+about))
}

// present publishes a pairing code as a device does, and returns the answer.
func (h *house) present(s *registry.Session, d device, code registry.PairingCode) string {
	h.t.Helper()
	payload := fmt.Sprintf(`{"code":%q,"nonce":"n1","proof":%q}`, string(code), d.proof(string(code)+":n1"))
	res, err := h.ClaimByCode(ctx, s, []byte(payload))
	if err != nil {
		h.t.Fatal(err)
	}
	var m struct{ Status, Error string }
	if err := json.Unmarshal(res, &m); err != nil {
		h.t.Fatal(err)
	}
	return strings.TrimSpace(m.Status + " " + m.Error)
}

func (h *house) status(user string, id string) registry.ClaimStatus {
	h.t.Helper()
	p, err := h.ClaimStatus(ctx, person(user), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return p.Status
}

// The vector of the contract. [contracts I]
func TestBindingProof(t *testing.T) {
	key := sha256.Sum256([]byte("device-secret-example"))
	got := hex.EncodeToString(registry.BindingProof(key[:], "bind:v1:a1b2c3d4e5f600112233445566778899:clm_01HZX8:0f1e2d3c4b5a69788796a5b4c3d2e1f0"))
	if want := "5af8b2e8c9681abdcff45a7d9c844d6f36f43570ac62551e360910b9bd15b649"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestActivation(t *testing.T) {
	t.Run("by the label makes an owner, once", func(t *testing.T) {
		h := open(t, registry.Options{})
		h.user("u1", "one@example.com")
		h.user("u2", "two@example.com")
		d, _ := h.labelled(1)
		l := h.listen(t, person("u1"), registry.ListenOptions{})
		hear(t, l)
		c, err := h.ActivateDevice(ctx, person("u1"), registry.ActivateRequest{MAC: strings.ToLower(strings.ReplaceAll(d.mac, ":", "")), Secret: labelSecret})
		if err != nil || !c.New || c.Via != "qr" || c.DeviceID != d.id {
			t.Fatalf("%+v, %v", c, err)
		}
		wantWords(t, hear(t, l), "+"+d.id, "device.claimed "+d.id)
		again, err := h.activate("u1", d, "whatever")
		if err != nil || again.New || !again.ClaimedAt.Equal(c.ClaimedAt) {
			t.Errorf("again: %+v, %v", again, err)
		}
		_, err = h.activate("u2", d, labelSecret)
		wantErr(t, "somebody else", err, registry.ErrOwnedByOther)
		if got := strings.Join(h.audit(d.id), " "); got != "enrolled first_seen provisioned claimed claim_refused" {
			t.Errorf("audit %s", got)
		}
	})
	t.Run("by a wrong secret looks like an absent device", func(t *testing.T) {
		h := open(t, registry.Options{})
		h.user("u1", "one@example.com")
		d, _ := h.labelled(1)
		bare := h.enroll(2)
		for what, id := range map[string]string{"wrong": d.id, "no label": bare.id, "absent": newDevice(3).id, "nonsense": "x"} {
			_, err := h.ActivateDevice(ctx, person("u1"), registry.ActivateRequest{DeviceID: id, Secret: "wrong"})
			wantErr(t, what, err, registry.ErrDeviceNotFound)
		}
	})
	t.Run("needs a device that is online and freshly set up", func(t *testing.T) {
		clock := newClock()
		h := open(t, registry.Options{Now: clock.now})
		h.user("u1", "one@example.com")
		d, _ := h.labelled(1)
		clock.add(15 * time.Minute)
		_, err := h.activate("u1", d, labelSecret)
		wantErr(t, "15 minutes later", err, registry.ErrWindowClosed)
		s := h.connect(d)
		h.provision(s, d)
		if _, err := h.Disconnect(ctx, s, registry.NetworkError, clock.now()); err != nil {
			t.Fatal(err)
		}
		_, err = h.activate("u1", d, labelSecret)
		wantErr(t, "offline", err, registry.ErrWindowClosed)
		h.provision(h.connect(d), d)
		if _, err := h.activate("u1", d, labelSecret); err != nil {
			t.Error(err)
		}
	})
	t.Run("is limited by failed tries, of a device and of a person", func(t *testing.T) {
		clock := newClock()
		h := open(t, registry.Options{Now: clock.now})
		h.user("u1", "one@example.com")
		h.user("u2", "two@example.com")
		d, _ := h.labelled(1)
		limited := func(what string, err error) {
			t.Helper()
			var e *registry.Error
			if !errors.As(err, &e) || e.Code != "RATE_LIMITED" || e.RetryAfter <= 0 || e.RetryAfter > time.Hour {
				t.Errorf("%s: %v", what, err)
			}
		}
		for range 5 {
			_, err := h.activate("u1", d, "wrong")
			wantErr(t, "wrong", err, registry.ErrDeviceNotFound)
		}
		_, err := h.activate("u2", d, labelSecret)
		limited("the right secret after five wrong ones", err)
		for n := range 5 {
			_, err := h.activate("u1", newDevice(10+n), "wrong")
			wantErr(t, "wrong", err, registry.ErrDeviceNotFound)
		}
		_, err = h.activate("u1", newDevice(99), "wrong")
		limited("a person after ten", err)
		clock.add(time.Hour + time.Second)
		h.provision(h.connect(d), d)
		if _, err := h.activate("u2", d, labelSecret); err != nil {
			t.Errorf("an hour later: %v", err)
		}
		if n := len(h.audit(d.id)); n != 3+6+1+1 {
			t.Errorf("%d audit rows: %v", n, h.audit(d.id))
		}
	})
	t.Run("is for people whose token may configure", func(t *testing.T) {
		h := open(t, registry.Options{})
		weak := person("u1")
		weak.Scopes = weak.Scopes[:1]
		d := h.enroll(1)
		for _, a := range []struct {
			actor registry.Actor
			want  error
		}{{admin, registry.ErrInsufficientRole}, {weak, registry.ErrInsufficientScope}} {
			_, err := h.ActivateDevice(ctx, a.actor, registry.ActivateRequest{DeviceID: "x", Secret: "y"})
			wantErr(t, "activate", err, a.want)
			_, _, err = h.StartClaim(ctx, a.actor)
			wantErr(t, "start", err, a.want)
			_, err = h.ChallengeDevice(ctx, a.actor, d.id)
			wantErr(t, "challenge", err, a.want)
			_, err = h.ClaimStatus(ctx, a.actor, "x")
			wantErr(t, "status", err, a.want)
		}
	})
}

func TestFiftyPeopleClaimOneDevice(t *testing.T) {
	h := open(t, registry.Options{})
	d, _ := h.labelled(1)
	const n = 50
	var mu sync.Mutex
	var wg sync.WaitGroup
	outcomes := map[string]int{}
	for i := range n {
		h.user(fmt.Sprint("u", i), fmt.Sprintf("u%d@example.com", i))
	}
	for i := range n {
		wg.Go(func() {
			c, err := h.activate(fmt.Sprint("u", i), d, labelSecret)
			outcome := fmt.Sprint(c.New)
			var e *registry.Error
			if errors.As(err, &e) {
				outcome = e.Code
			}
			mu.Lock()
			defer mu.Unlock()
			outcomes[outcome]++
		})
	}
	wg.Wait()
	if outcomes["true"] != 1 || outcomes["owned_by_other"] != n-1 {
		t.Errorf("outcomes %v", outcomes)
	}
	var claimed, refused int
	for _, e := range h.audit(d.id) {
		switch e {
		case "claimed":
			claimed++
		case "claim_refused":
			refused++
		}
	}
	if claimed != 1 || refused != n-1 {
		t.Errorf("the trail has %d claims and %d refusals", claimed, refused)
	}
}

func TestPairingCode(t *testing.T) {
	start := func(h *house, user string) (registry.Pairing, registry.PairingCode) {
		h.t.Helper()
		p, code, err := h.StartClaim(ctx, person(user))
		if err != nil {
			h.t.Fatal(err)
		}
		return p, code
	}
	t.Run("binds the device that presents it", func(t *testing.T) {
		h := open(t, registry.Options{})
		h.user("u1", "one@example.com")
		d := h.enroll(1)
		s := h.connect(d)
		p, code := start(h, "u1")
		if h.status("u1", p.ID) != registry.ClaimPending {
			t.Error("it does not wait")
		}
		for range 2 { // a device sends again what was not acknowledged
			if got := h.present(s, d, registry.PairingCode(strings.ToLower(string(code)))); got != "claimed" {
				t.Errorf("answered %s", got)
			}
		}
		if r := h.roleOf(d, "u1"); r != registry.RoleOwner || h.status("u1", p.ID) != registry.ClaimClaimed {
			t.Errorf("they are %q", r)
		}
		if !slices.Contains(h.courier.changed, "u1") || h.Counters().Claims.Load() != 1 {
			t.Error("nobody was told")
		}
		_, err := h.ClaimStatus(ctx, person("u2"), p.ID)
		wantErr(t, "somebody else's claim", err, registry.ErrClaimNotFound)
	})
	t.Run("is worth nothing without the device's proof", func(t *testing.T) {
		h := open(t, registry.Options{})
		h.user("u1", "one@example.com")
		d, other := h.enroll(1), h.enroll(2)
		s := h.connect(d)
		_, code := start(h, "u1")
		for what, proof := range map[string]string{
			"of another device": other.proof(string(code) + ":n1"), "of another nonce": d.proof(string(code) + ":n2"), "none": "",
		} {
			payload := fmt.Sprintf(`{"code":%q,"nonce":"n1","proof":%q}`, string(code), proof)
			if proof == "" {
				payload = fmt.Sprintf(`{"code":%q,"nonce":"n1"}`, string(code))
			}
			res, err := h.ClaimByCode(ctx, s, []byte(payload))
			if err != nil || string(res) != `{"status":"rejected","error":"code_invalid"}` {
				t.Errorf("a proof %s: %s, %v", what, res, err)
			}
		}
		if got := h.present(s, d, code); got != "claimed" {
			t.Errorf("the right one: %s", got)
		}
	})
	t.Run("is refused when it is wrong, old, or the device is another's", func(t *testing.T) {
		clock := newClock()
		h := open(t, registry.Options{Now: clock.now})
		h.user("u1", "one@example.com")
		h.user("u2", "two@example.com")
		d := h.enroll(1)
		s := h.connect(d)
		if got := h.present(s, d, "00000000"); got != "rejected code_invalid" {
			t.Errorf("wrong: %s", got)
		}
		p, code := start(h, "u1")
		clock.add(5 * time.Minute)
		if got := h.present(s, d, code); got != "rejected code_expired" || h.status("u1", p.ID) != registry.ClaimExpired {
			t.Errorf("old: %s, %s", got, h.status("u1", p.ID))
		}
		h.give(d, "u2")
		p, code = start(h, "u1")
		for range 2 {
			if got := h.present(s, d, code); !strings.HasPrefix(got, "rejected") || h.status("u1", p.ID) != registry.ClaimRejected {
				t.Errorf("another's: %s, %s", got, h.status("u1", p.ID))
			}
		}
	})
	t.Run("stops at the person's limit", func(t *testing.T) {
		h := open(t, registry.Options{MaxDevicesPerUser: 1})
		h.user("u1", "one@example.com")
		h.give(h.enroll(1), "u1")
		d := h.enroll(2)
		p, code := start(h, "u1")
		if got := h.present(h.connect(d), d, code); got != "rejected device_limit_reached" || h.status("u1", p.ID) != registry.ClaimRejected {
			t.Errorf("%s", got)
		}
	})
	t.Run("cannot be guessed, and a person has five at once", func(t *testing.T) {
		h := open(t, registry.Options{})
		h.user("u1", "one@example.com")
		d := h.enroll(1)
		s := h.connect(d)
		for range 5 {
			_, _ = start(h, "u1")
			if got := h.present(s, d, "ZZZZZZZZ"); got != "rejected code_invalid" {
				t.Errorf("a guess: %s", got)
			}
		}
		if got := h.present(s, d, "ZZZZZZZZ"); got != "rejected rate_limited" {
			t.Errorf("the sixth guess: %s", got)
		}
		_, _, err := h.StartClaim(ctx, person("u1"))
		wantErr(t, "the sixth code", err, registry.ErrTooManyClaims)
	})
	t.Run("of a superseded session does nothing", func(t *testing.T) {
		h := open(t, registry.Options{})
		h.user("u1", "one@example.com")
		d := h.enroll(1)
		old := h.connect(d)
		h.connect(d)
		_, code := start(h, "u1")
		_, err := h.ClaimByCode(ctx, old, fmt.Appendf(nil, `{"code":%q,"nonce":"n1","proof":%q}`, string(code), d.proof(string(code)+":n1")))
		wantErr(t, "stale", err, registry.ErrStale)
	})
	t.Run("redacts itself, as a label's secret does", func(t *testing.T) {
		if got := fmt.Sprintf("%v %s %+v %q %v", registry.PairingCode("AAAA"), registry.PairingCode("AAAA"), registry.ActivateRequest{Secret: "BBBB"}, registry.ClaimSecret("BBBB"), registry.ClaimSecret("BBBB")); strings.Contains(got, "AAAA") || strings.Contains(got, "BBBB") {
			t.Error(got)
		}
	})
}

func TestButton(t *testing.T) {
	h := open(t, registry.Options{})
	h.user("u1", "one@example.com")
	h.user("u2", "two@example.com")
	d, other := h.enroll(1), h.enroll(2)
	s, foreign := h.connect(d), h.connect(other)
	_, err := h.ChallengeDevice(ctx, person("u1"), newDevice(9).id)
	wantErr(t, "an absent device", err, registry.ErrDeviceNotFound)
	_, err = h.ChallengeDevice(ctx, person("u1"), d.id)
	wantErr(t, "nobody listens", err, registry.ErrOffline)

	var asked struct {
		ClaimID   string `json:"claim_id"`
		Challenge string
	}
	h.courier.deliver = func(_ string, payload []byte) error { return json.Unmarshal(payload, &asked) }
	p, err := h.ChallengeDevice(ctx, person("u1"), d.id)
	if err != nil || p.ID != asked.ClaimID || p.ExpiresAt.Sub(p.CreatedAt) != time.Minute {
		t.Fatalf("%+v, %v", p, err)
	}
	confirm := func(s *registry.Session, d device, claim, challenge string) string {
		res, err := h.ConfirmClaim(ctx, s, fmt.Appendf(nil, `{"claim_id":%q,"challenge":%q,"proof":%q}`, claim, challenge, d.proof(claim+":"+challenge)))
		if err != nil {
			t.Fatal(err)
		}
		return string(res)
	}
	const invalid, claimed = `{"status":"rejected","error":"code_invalid"}`, `{"status":"claimed"}`
	if got := confirm(foreign, other, p.ID, asked.Challenge); got != invalid {
		t.Errorf("another device: %s", got)
	}
	if got := confirm(s, d, p.ID, strings.Repeat("0", 32)); got != invalid {
		t.Errorf("another challenge: %s", got)
	}
	if got := confirm(s, d, p.ID, asked.Challenge); got != claimed || h.roleOf(d, "u1") != registry.RoleOwner {
		t.Errorf("answered %s", got)
	}
	_, err = h.ChallengeDevice(ctx, person("u1"), d.id)
	wantErr(t, "one's own", err, registry.ErrAlreadyOwner)
	_, err = h.ChallengeDevice(ctx, person("u2"), d.id)
	wantErr(t, "somebody else's", err, registry.ErrDeviceNotFound)
	h.share(d, "u2")
	_, err = h.ChallengeDevice(ctx, person("u2"), d.id)
	wantErr(t, "a shared one", err, registry.ErrOwnedByOther)

	for range 5 {
		_, err = h.ChallengeDevice(ctx, person("u2"), other.id)
	}
	if err == nil || !errors.Is(err, registry.ErrTooManyTries) {
		t.Errorf("challenged over and over: %v", err)
	}
}

func TestSupportClaim(t *testing.T) {
	h := open(t, registry.Options{MaxDevicesPerUser: 1})
	h.user("u1", "one@example.com")
	h.user("u2", "two@example.com")
	d := h.enroll(1)
	claim := func(a registry.Actor, req registry.SupportClaimRequest) (registry.Claimed, error) {
		req.DeviceID = d.id
		return h.SupportClaim(ctx, a, req)
	}
	_, err := claim(person("u1"), registry.SupportClaimRequest{UserID: "u1"})
	wantErr(t, "a person", err, registry.ErrInsufficientRole)
	for _, req := range []registry.SupportClaimRequest{{UserID: "nobody"}, {Email: "nobody@example.com"}, {UserID: "u1", Email: "two@example.com"}} {
		_, err = claim(readOnly, req)
		wantErr(t, fmt.Sprint(req), err, registry.ErrNoSuchUser)
	}
	if c, err := claim(readOnly, registry.SupportClaimRequest{Email: "One@example.com", Proof: true}); err != nil || !c.New || c.UserID != "u1" || c.Via != "support" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := claim(readOnly, registry.SupportClaimRequest{UserID: "u1"}); err != nil || c.New {
		t.Errorf("again: %+v, %v", c, err)
	}
	_, err = claim(readOnly, registry.SupportClaimRequest{UserID: "u2"})
	wantErr(t, "another's", err, registry.ErrAlreadyOwned)
	_, err = h.SupportClaim(ctx, admin, registry.SupportClaimRequest{DeviceID: h.enroll(2).id, UserID: "u1"})
	wantErr(t, "at the limit", err, registry.ErrDeviceLimit)
	_, err = h.SupportClaim(ctx, admin, registry.SupportClaimRequest{DeviceID: newDevice(9).id, UserID: "u1"})
	wantErr(t, "an absent device", err, registry.ErrDeviceNotFound)
}

// A device that somebody resets stays its owner's: only they give it up.
func TestProvisioningAnewKeepsTheOwner(t *testing.T) {
	h := open(t, registry.Options{})
	h.user("owner", "owner@example.com")
	h.user("guest", "guest@example.com")
	d := h.enroll(1)
	if _, err := h.SupportClaim(ctx, admin, registry.SupportClaimRequest{DeviceID: d.id, UserID: "owner"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if res := h.provision(h.connect(d), d); res["owner"] != "owner" {
			t.Errorf("answered %v", res)
		}
	}
	if _, err := h.ReleaseDevice(ctx, admin, d.id); err != nil {
		t.Fatal(err)
	}
	h.order(d, "guest@example.com")
	if res := h.provision(h.connect(d), d); res["owner"] != nil {
		t.Errorf("a device that was owned is linked: %v", res)
	}
}

func (h *house) order(d device, email string) {
	h.t.Helper()
	if _, _, err := h.CreateOrder(ctx, admin, registry.OrderRequest{OrderID: "o-" + d.id, UserEmail: email, DeviceMAC: d.mac, ShippedAt: "2026-01-10"}); err != nil {
		h.t.Fatal(err)
	}
}

func FuzzClaim(f *testing.F) {
	f.Add([]byte(`{"code":"7K3M9QXR","nonce":"5f0c","proof":"1d"}`))
	f.Add([]byte(`{"claim_id":"clm_01HZX8","challenge":"0f1e2d3c4b5a69788796a5b4c3d2e1f0"}`))
	f.Add([]byte(`{"code":[],"nonce":null}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if c, err := registry.DecodeCodeClaim(payload); err == nil && (len(c.Code) < 4 || c.Nonce == "") {
			t.Errorf("taken: %q", payload)
		} else if err != nil && registry.KindOf(err) != registry.Invalid {
			t.Errorf("%v", err)
		}
		if c, err := registry.DecodeButtonClaim(payload); err == nil && (c.ClaimID == "" || len(c.Challenge) < 32) {
			t.Errorf("taken: %q", payload)
		} else if err != nil && registry.KindOf(err) != registry.Invalid {
			t.Errorf("%v", err)
		}
	})
}
