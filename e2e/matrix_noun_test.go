package e2e_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// noun is what the variables of a path name.
type noun struct {
	targets  []string // what there is of it, from where the asker stands
	notFound string   // the code of an absent one
	// values is what the variables stand for, in their order.
	values func(s *stage, t *testing.T, actor, target string, want verdict) []string
}

// aDevice are the targets of a path that names a device, mine of one that names what
// people have of their own, and anybodys of one that names what staff look after.
var (
	aDevice  = []string{"own", "shared", "foreign", "absent"}
	mine     = []string{"own", "foreign", "absent"}
	anybodys = []string{"present", "absent"}
)

// nouns are the nouns by the path up to the last variable.
var nouns = map[string]noun{
	"/api/devices/":                      {aDevice, "device_not_found", deviceOf},
	"/api/devices/{id}/commands/":        {aDevice, "device_not_found", commandOf},
	"/api/devices/{id}/events/":          {aDevice, "device_not_found", eventOf},
	"/admin/devices/":                    {aDevice, "device_not_found", deviceOf},
	"/api/me/sessions/":                  {mine, "session_not_found", sessionOf},
	"/api/me/identities/":                {mine, "identity_not_found", identityOf},
	"/api/devices/{id}/shares/":          {aDevice, "device_not_found", shareOf},
	"/api/devices/claims/":               {mine, "claim_not_found", claimIDOf},
	"/api/invitations/":                  {mine, "invitation_not_found", invitationOf},
	"/api/checkout/sessions/":            {[]string{"absent"}, "session_not_found", noSession},
	"/admin/plans/":                      {anybodys, "plan_not_found", planOf},
	"/admin/purchases/":                  {anybodys, "purchase_not_found", purchaseOf},
	"/admin/sims/":                       {anybodys, "sim_not_found", simOf},
	"/admin/users/":                      {anybodys, "user_not_found", userOf},
	"/admin/staff/":                      {anybodys, "admin_not_found", memberOf},
	"/admin/releases/":                   {anybodys, "release_not_found", releaseOf},
	"/admin/rollouts/":                   {anybodys, "rollout_not_found", rolloutOf},
	"/admin/webhooks/":                   {anybodys, "webhook_not_found", webhookOf},
	"/admin/webhooks/{id}/deliveries/":   {anybodys, "delivery_not_found", deliveryOf},
	"/admin/service-accounts/":           {anybodys, "service_account_not_found", serviceOf},
	"/admin/service-accounts/{id}/keys/": {mine, "key_not_found", keyOf},
}

// nounOf is the noun that a path names, if it has a variable.
func nounOf(t *testing.T, path string) (noun, bool) {
	t.Helper()
	i := strings.LastIndexByte(path, '{')
	if i < 0 {
		return noun{targets: []string{"it"}}, false
	}
	n, known := nouns[path[:i]]
	if !known {
		t.Fatalf("nobody knows what the variable of %s names: add it to nouns", path)
	}
	return n, true
}

// nobody is an id that nothing has.
const nobody = "01a20234-6e85-7aaf-98b6-af4a4d15cedb"

// device is the device that a target is to one of the cast.
func (s *stage) device(actor, target string) Device {
	switch {
	case target == "own" && slices.Contains(persons, actor):
		return s.own[actor]
	case target == "foreign":
		return s.own["other"]
	case target == "absent":
		return s.none
	}
	return s.house // staff and strangers to us own nothing
}

func deviceOf(s *stage, _ *testing.T, actor, target string, _ verdict) []string {
	return []string{s.device(actor, target).ID}
}

// shareOf is the share of a device that every device of a stage has.
func shareOf(s *stage, _ *testing.T, actor, target string, _ verdict) []string {
	return []string{s.device(actor, target).ID, s.guest.ID}
}

// invitationOf is an open invitation to the asker, to somebody else, or none.
func invitationOf(s *stage, _ *testing.T, actor, target string, _ verdict) []string {
	switch {
	case target == "absent" || actor == "anonymous":
		return []string{"1"}
	case target == "foreign" || !slices.Contains(persons, actor):
		return []string{s.invited["other"]}
	}
	return []string{s.invited[actor]}
}

// claimIDOf is a claim of the asker's, somebody else's, or none.
func claimIDOf(s *stage, t *testing.T, actor, target string, _ verdict) []string {
	whose := actor
	switch {
	case target == "absent" || actor == "anonymous" || !slices.Contains(persons, actor):
		return []string{"clm_nobodys"}
	case target == "foreign":
		whose = "other"
	}
	if s.claims == nil {
		s.claims = map[string]string{}
	}
	if s.claims[whose] == "" {
		var answer struct {
			ID string `json:"claim_id"`
		}
		s.For(t).Post("/api/devices/claims", s.token(t, whose), nil, &answer)
		s.claims[whose] = answer.ID
	}
	return []string{s.claims[whose]}
}

// labelSecret is on the label of every device of a stage that has one.
const labelSecret = "label-secret-of-16-b"

// newLabel is a device that was just set up and is nobody's, for who asks; whoever may
// not claim it gets one that does not exist.
func newLabel(s *stage, t *testing.T, actor string) (token, body string) {
	token = s.token(t, actor)
	d := s.none
	if slices.Contains(persons, actor) {
		d = NewDevice()
		hash := sha256.Sum256([]byte(labelSecret))
		csv := "mac_address,device_secret_hash,claim_secret_hash\n" + strings.TrimSuffix(line(d), "\n") + "," + hex.EncodeToString(hash[:]) + "\n"
		if r := s.exchange(t, request{"POST", "/admin/devices/import", s.staffToken(t, "admin"), "text/csv", csv}); r.status != http.StatusOK {
			t.Fatalf("%d %s", r.status, r.body)
		}
		if err := Provision(s.For(t).Connect(d), d); err != nil {
			t.Fatal(err)
		}
	}
	return token, `{"device_id":"` + d.ID + `","claim_secret":"` + labelSecret + `"}`
}

// nobodysDevice is a device without an owner, for support to give away.
func nobodysDevice(s *stage, t *testing.T, actor string) (token, body string) {
	d := NewDevice()
	if r := s.exchange(t, request{"POST", "/admin/devices/import", s.staffToken(t, "admin"), "text/csv", "mac_address,device_secret_hash\n" + line(d)}); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	return s.token(t, actor), `{"device_id":"` + d.ID + `","user_id":"` + s.users["stranger"].ID + `"}`
}

// commandOf is a device and a command that waits for it, or the id of none.
func commandOf(s *stage, t *testing.T, actor, target string, _ verdict) []string {
	t.Helper()
	d := s.device(actor, target)
	s.bodies++
	id := fmt.Sprintf("command-%d-%d", s.stages, s.bodies)
	if d.ID == s.none.ID {
		return []string{d.ID, id}
	}
	ctx := context.Background()
	err := s.db.Registry().InTx(ctx, func(tx registry.Tx) error {
		row, err := tx.Device(ctx, d.ID)
		if err != nil {
			return err
		}
		at := time.Now()
		_, err = tx.InsertCommand(ctx, registry.Command{
			No: at.UnixNano(), ID: id, DeviceNo: row.No, Issuer: "system", RequestID: id, BodyHash: []byte{0}, Type: "identify", Params: "{}",
			Queueable: true, Status: registry.CommandQueued, IssuedAt: at, ExpiresAt: at.Add(time.Hour), DueAt: at.Add(time.Hour),
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return []string{d.ID, id}
}

// eventOf is a device and an event that nobody has sent: what is asked of it is refused
// before.
func eventOf(s *stage, _ *testing.T, actor, target string, _ verdict) []string {
	return []string{s.device(actor, target).ID, "evt-1"}
}

// sessionOf is a session beside the one that asks, somebody else's, or none.
func sessionOf(s *stage, t *testing.T, actor, target string, _ verdict) []string {
	switch {
	case target == "absent" || actor == "anonymous" || slices.Contains(services, actor):
		return []string{nobody}
	case target == "foreign":
		return []string{claimOf(t, s.token(t, "other"), "sid")}
	case slices.Contains(persons, actor):
		return []string{claimOf(t, s.For(t).UserToken(s.users[actor].Email).Token, "sid")}
	}
	return []string{claimOf(t, s.staffLogin(t, s.staff[actor].Email, adminPassword).Token, "sid")}
}

// identityOf is a way in that everybody of a stage has beside their first, that
// somebody else has, or that nobody has.
func identityOf(_ *stage, _ *testing.T, _, target string, _ verdict) []string {
	return []string{map[string]string{"own": secondProvider, "foreign": othersProvider, "absent": "apple"}[target]}
}

func userOf(s *stage, _ *testing.T, _, target string, _ verdict) []string {
	if target == "absent" {
		return []string{nobody}
	}
	return []string{s.users["viewer"].ID}
}

// memberOf is a member of staff: one for all who are refused, a new one for who is not.
func memberOf(s *stage, t *testing.T, _, target string, want verdict) []string {
	if target == "absent" {
		return []string{nobody}
	}
	s.bodies++
	hire := func() string {
		return s.hire(t, fmt.Sprintf("member-%d@example.com", s.bodies), account.AdminRoleSupport).ID
	}
	if want.allowed() {
		return []string{hire()}
	}
	if s.member == "" {
		s.member = hire()
	}
	return []string{s.member}
}

func serviceOf(s *stage, t *testing.T, _, target string, want verdict) []string {
	if target == "absent" {
		return []string{nobody}
	}
	return []string{s.account(t, want).id}
}

// simOf is the SIM in the device of the house.
func simOf(s *stage, t *testing.T, _, target string, _ verdict) []string {
	if target == "absent" {
		return []string{"1"}
	}
	var answer struct {
		SIMs []struct {
			ID string `json:"sim_id"`
		} `json:"sims"`
	}
	s.For(t).Get("/admin/sims?device_id="+s.house.ID, s.token(t, "admin"), &answer)
	return []string{answer.SIMs[0].ID}
}

// account is a service account: one for all who are refused, a new one for who is not.
func (s *stage) account(t *testing.T, want verdict) client {
	if want.allowed() {
		return s.employ(t, `["device:read"]`)
	}
	if s.spare.id == "" {
		s.spare = s.employ(t, `["device:read"]`)
	}
	return s.spare
}

// keyOf is a key of an account; foreign is another account's.
func keyOf(s *stage, t *testing.T, _, target string, want verdict) []string {
	c := s.account(t, want)
	if target == "own" {
		return []string{c.id, c.keyID}
	}
	return []string{c.id, map[string]string{"foreign": s.hired["service"].keyID, "absent": nobody}[target]}
}

// client is a service account.
type client struct {
	id, secret, keyID, key string
	token                  string
}

// employ makes a service account with a key.
func (th *theatre) employ(t *testing.T, scopes string) (c client) {
	t.Helper()
	th.bodies++
	var account struct {
		ID     string `json:"client_id"`
		Secret string `json:"client_secret"`
	}
	var key struct {
		ID  string `json:"key_id"`
		Key string `json:"api_key"`
	}
	admin := th.staffToken(t, "admin")
	th.For(t).Post("/admin/service-accounts", admin, object{"name": fmt.Sprintf("service %d", th.bodies), "scopes": json.RawMessage(scopes)}, &account)
	th.For(t).Post("/admin/service-accounts/"+account.ID+"/keys", admin, object{"name": "key"}, &key)
	c = client{id: account.ID, secret: account.Secret, keyID: key.ID, key: key.Key}
	r := th.exchange(t, request{http.MethodPost, "/oauth/token", "", "application/x-www-form-urlencoded", "grant_type=client_credentials&client_id=" + c.id + "&client_secret=" + c.secret})
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(r.body), &answer); err != nil || answer.Token == "" {
		t.Fatalf("%d %s: %v", r.status, r.body, err)
	}
	c.token = answer.Token
	return c
}

// fill puts values into a body or a query that nobody has used yet.
func (s *stage) fill(t *testing.T, text string) string {
	t.Helper()
	s.bodies++
	d := NewDevice()
	hash := strings.TrimSuffix(strings.TrimPrefix(line(d), d.MAC+","), "\n")
	text = strings.NewReplacer("$MAC", d.MAC, "$NEW", fmt.Sprintf("new-%d", s.bodies), "$HASH", hash, "$SIM", newICCID(), "$DEVICE", s.house.ID, "$USER", s.users["viewer"].ID,
		"$CLIENT", s.hired["service"].id, "$SECRET", s.hired["service"].secret, "$CHALLENGE", challengeOf(verifier)).Replace(text)
	if strings.Contains(text, "$REFRESH") {
		text = strings.ReplaceAll(text, "$REFRESH", s.login(t, s.users["stranger"].Email)["refresh_token"].(string))
	}
	if strings.Contains(text, "$LINK") {
		text = strings.NewReplacer("$LINK", s.mailedLink(t, fmt.Sprintf("link-%d@example.com", s.bodies)), "$VERIFIER", verifier).Replace(text)
	}
	return text
}

// verifier proves that who shows a mailed link has asked for it. [RFC 7636 4.1]
const verifier = "a-verifier-of-the-tests-0123456789-0123456789"

func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// mailedToken finds a link's token in a mail.
var mailedToken = regexp.MustCompile(`#token=([A-Za-z0-9_-]{43})`)

// mailedLink asks for a link and reads its token in the outbox.
func (c *Cloud) mailedLink(t *testing.T, email string) (token string) {
	t.Helper()
	c.For(t).Post("/api/auth/app-magic-link", "", object{"email": email, "install_id": "install-1", "code_challenge": challengeOf(verifier)}, nil)
	return c.inOutbox(t, email)
}

// inOutbox is the token of the latest mail to an address.
func (c *Cloud) inOutbox(t *testing.T, email string) (token string) {
	t.Helper()
	Await(t, 15*time.Second, func() bool {
		for _, mail := range c.outbox(t) {
			if found := mailedToken.FindStringSubmatch(mail); found != nil && strings.Contains(mail, email) {
				token = found[1]
			}
		}
		return token != ""
	}, func() string { return "no mail to " + email })
	return token
}

func decode32(secret string) ([]byte, error) {
	return base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
}

// authenticator shows the code of a shared secret, some steps from now. [RFC 6238]
func authenticator(t *testing.T, secret string, steps int64) string {
	t.Helper()
	key, err := decode32(secret)
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha1.New, key)
	_ = binary.Write(mac, binary.BigEndian, time.Now().Unix()/30+steps)
	sum := mac.Sum(nil)
	number := binary.BigEndian.Uint32(sum[sum[19]&15:]) & 0x7fffffff
	return fmt.Sprintf("%06d", number%1_000_000)
}

// newHand is a new member of staff with an authenticator that is not confirmed yet, for
// what a member does to their own account.
func newHand(s *stage, t *testing.T, actor string) (token, body string) {
	role := map[string]account.AdminRole{"support": account.AdminRoleSupport, "admin": account.AdminRoleAdmin}[actor]
	if role == "" {
		return s.token(t, actor), `{"code":"000000"}`
	}
	s.bodies++
	email := fmt.Sprintf("hand-%d@example.com", s.bodies)
	s.hire(t, email, role)
	token = s.staffLogin(t, email, adminPassword).Token
	var answer struct{ Secret string }
	s.For(t).Post("/admin/auth/totp", token, nil, &answer)
	return token, `{"code":"` + authenticator(t, answer.Secret, -1) + `"}`
}

// handWithCode is newHand whose authenticator is confirmed.
func handWithCode(s *stage, t *testing.T, actor string) (token, body string) {
	if actor != "support" && actor != "admin" {
		return newHand(s, t, actor)
	}
	role := map[string]account.AdminRole{"support": account.AdminRoleSupport, "admin": account.AdminRoleAdmin}[actor]
	s.bodies++
	email := fmt.Sprintf("hand-%d@example.com", s.bodies)
	s.hire(t, email, role)
	token = s.staffLogin(t, email, adminPassword).Token
	var answer struct{ Secret string }
	s.For(t).Post("/admin/auth/totp", token, nil, &answer)
	s.For(t).Post("/admin/auth/totp/confirm", token, object{"code": authenticator(t, answer.Secret, -1)}, nil)
	if s.Do(http.MethodGet, "/api/me", token, nil, nil) != http.StatusOK { // a change of how they prove themselves ends their sessions
		var again struct {
			Token string `json:"access_token"`
		}
		s.For(t).Post("/admin/auth/login", "", object{"email": email, "password": adminPassword, "totp": authenticator(t, answer.Secret, 0)}, &again)
		return again.Token, `{"code":"` + authenticator(t, answer.Secret, 1) + `"}`
	}
	return token, `{"code":"` + authenticator(t, answer.Secret, 0) + `"}`
}
