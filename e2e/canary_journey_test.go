package e2e_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opticworks/devicecloud/cmd/devicecloud/app"
	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// voyage is a run of the program with canaries in every place for a secret.
type voyage struct {
	*Cloud
	*canaries
	t        *testing.T
	issuer   *issuer
	password string // of the administrator
	admin    string // their token

	ingestKey string // what events from outside are signed with
}

// embark starts a cloud whose settings hold canaries, at log level debug.
func embark(t *testing.T) *voyage {
	t.Helper()
	v := &voyage{t: t, canaries: newCanaries()}
	v.password = v.plant("ADMIN_PASSWORD", "Canary+"+rand.Text())
	sealing := make([]byte, 32)
	_, _ = rand.Read(sealing)
	_, signing, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(signing)
	if err != nil {
		t.Fatal(err)
	}
	v.plant("SECRET_ENCRYPTION_KEY", base64.StdEncoding.EncodeToString(sealing))
	v.plant("the bytes of SECRET_ENCRYPTION_KEY", string(sealing))
	v.plant("the seed of TOKEN_SIGNING_KEY", string(signing.Seed()))
	v.plant("TOKEN_SIGNING_KEY", base64.StdEncoding.EncodeToString(der))
	file := filepath.Join(t.TempDir(), "token-key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	v.issuer = newIssuer(t)
	v.issuer.v = v
	env := v.issuer.settings(v.canaries)
	env["ADMIN_PASSWORD"], env["SECRET_ENCRYPTION_KEY"], env["TOKEN_SIGNING_KEY_FILE"] = v.password, base64.StdEncoding.EncodeToString(sealing), file
	env["STRIPE_SECRET_KEY"] = v.plant("STRIPE_SECRET_KEY", "sk_test_"+rand.Text())
	env["STRIPE_DATA_PLAN_WEBHOOK_SECRET"] = v.plant("STRIPE_DATA_PLAN_WEBHOOK_SECRET", "whsec_"+rand.Text())
	env["STRIPE_BASE_URL"] = "http://127.0.0.1:1" // nobody answers
	v.ingestKey = v.plant("the secret of INGEST_KEYS", "ingest+"+rand.Text())
	env["INGEST_KEYS"] = "k1:" + v.ingestKey
	v.Cloud = Start(t, Options{Env: env})
	v.admin = v.token(v.send("POST", "/admin/auth/login", "", object{"email": adminEmail, "password": v.password}))
	return v
}

type object = map[string]any

// send asks for something and keeps the answer.
func (v *voyage) send(method, path, token string, body any) reply {
	v.t.Helper()
	r := request{method: method, path: path, token: token}
	if body != nil {
		r.body = string(must2(json.Marshal(body)))
	}
	return v.record(v.t, v.Cloud, r)
}

// text is a member of an answer.
func (v *voyage) text(r reply, member string) string {
	v.t.Helper()
	var body map[string]any
	if err := json.Unmarshal([]byte(r.body), &body); err != nil || r.status/100 != 2 {
		v.t.Fatalf("answered %d %s", r.status, r.body)
	}
	text, _ := body[member].(string)
	return text
}

func (v *voyage) token(r reply) string {
	v.t.Helper()
	return v.text(r, "access_token")
}

// factory makes a device whose secret, and the hash of it, are canaries.
func (v *voyage) factory() (d Device, hash string) {
	d = NewDevice()
	sum := sha256.Sum256([]byte(v.plant("the secret of device "+d.ID, d.Secret)))
	v.plant("the hash of device "+d.ID, string(sum[:])) // worth a password [contracts, decision 2b]
	return d, hex.EncodeToString(sum[:])
}

// bodies sends what is not a request, with a secret in it.
func (v *voyage) bodies(path, token, secret string, members ...string) {
	v.t.Helper()
	for _, body := range []string{
		`{"` + members[0] + `":"` + secret + `"`, `"` + secret + `"`, secret, `{"` + secret + `":1}`, `{"` + members[0] + `":["` + secret + `"]}`, `{"` + members[0] + `":{"a":"` + secret + `"}}`,
		`{"` + members[0] + `":"` + secret + "\xff" + `"}`, `[{"` + members[0] + `":"` + secret + `"}]`, `{"` + members[0] + `":"` + secret + `"} ` + secret,
	} {
		v.record(v.t, v.Cloud, request{"POST", path, token, "application/json", body})
	}
	v.record(v.t, v.Cloud, request{"POST", path, token, "text/plain; x=" + secret, secret})
	v.record(v.t, v.Cloud, request{"POST", path + "?" + members[0] + "=" + secret, token, "", `{}`})
	everything := object{}
	for _, m := range members {
		everything[m] = secret
	}
	v.send("POST", path, token, everything)
}

// staffSignsIn walks the ways in for staff, most of them wrong.
func (v *voyage) staffSignsIn() {
	wrong := v.plant("a password that was mistyped", "mistyped+"+rand.Text())
	v.bodies("/admin/auth/login", "", wrong, "email", "password")
	v.bodies("/admin/auth/login", "", v.password, "password", "email")
	v.send("POST", "/admin/auth/login", "", object{"email": adminEmail, "password": wrong})
	v.send("POST", "/admin/auth/login", "", object{"email": wrong + "@example.com", "password": wrong}) // typed into the wrong field
	v.send("POST", "/admin/auth/login", "", object{"email": adminEmail, "password": wrong, "totp": wrong})
}

// peopleSignIn walks the ways in for people.
func (v *voyage) peopleSignIn() {
	secret := v.plant("a provider's token", "provider+"+rand.Text())
	v.bodies("/api/auth/app-token", "", secret, "id_token", "provider", "code", "nonce")
	for _, provider := range []string{"dev", "google", "apple", "wechat_miniprogram", secret} {
		v.send("POST", "/api/auth/app-token", "", object{"provider": provider, "id_token": secret})
		v.send("POST", "/api/auth/app-token", "", object{"provider": provider, "code": secret})
	}
	one := v.send("POST", "/api/auth/app-token", "", object{"provider": "dev", "id_token": "one@example.com", "device": object{"install_id": "i1", "platform": "ios", "name": "Phone"}})
	v.send("GET", "/api/me", v.token(one), nil)
	bent := v.token(one) + "x"
	for _, path := range []string{"/api/me", "/admin/stats", "/api/devices/" + strings.Repeat("0", 32)} {
		v.send("GET", path, bent, nil)
		v.send("GET", path+"?access_token="+v.token(one), "", nil)
		v.record(v.t, v.Cloud, request{method: "GET", path: path, token: "Bearer " + bent})
	}
}

// sessionsEnd refreshes, replays and ends sessions, and changes the ways in.
func (v *voyage) sessionsEnd() {
	signIn := func(email string) reply {
		return v.send("POST", "/api/auth/app-token", "", object{"provider": "dev", "id_token": email, "device": object{"install_id": "i1"}})
	}
	r := signIn("traveller@example.com")
	first := v.text(r, "refresh_token")
	next := v.send("POST", "/api/v1/auth/refresh", "", object{"refresh_token": first, "install_id": "i1"})
	v.send("POST", "/api/v1/auth/refresh", "", object{"refresh_token": first, "install_id": "i1"})
	v.send("GET", "/api/me/sessions", v.token(next), nil)
	v.send("POST", "/api/auth/refresh", "", object{"refresh_token": v.text(next, "refresh_token"), "install_id": v.text(next, "refresh_token")})
	v.bodies("/api/auth/refresh", "", first, "refresh_token", "install_id")
	v.send("GET", "/api/me", v.token(next), nil)
	v.send("GET", "/api/me", first, nil) // a refresh token as access token
	unknown := v.plant("an unknown refresh token", base64.RawURLEncoding.EncodeToString([]byte(rand.Text()+"012345")))
	v.send("POST", "/api/auth/refresh", "", object{"refresh_token": unknown})
	r = signIn("traveller@example.com")
	token := v.token(r)
	v.bodies("/api/me/identities", token, v.plant("a second provider's token", "second+"+rand.Text()), "id_token", "provider", "code", "nonce")
	v.send("POST", "/api/me/identities", token, object{"provider": "dev", "id_token": "second@example.com"})
	v.send("DELETE", "/api/me/identities/dev", token, nil)
	v.send("DELETE", "/api/me/identities/dev", token, nil)
	v.bodies("/api/auth/logout", token, v.text(r, "refresh_token"), "refresh_token", "all")
	r = signIn("eraser@example.com")
	v.send("DELETE", "/api/auth/app-token", v.token(r), object{"refresh_token": v.text(r, "refresh_token")})
	v.send("DELETE", "/api/me", v.token(signIn("eraser@example.com")), nil)
	v.send("POST", "/api/auth/logout", v.token(signIn("traveller@example.com")), object{"all": true})
}

// devicesAreClaimed claims devices by their labels, by what they prove, and at the word
// of support, well and badly.
func (v *voyage) devicesAreClaimed() {
	d, hash := v.factory()
	label := v.plant("the secret of a label", "label+"+rand.Text())
	of := sha256.Sum256([]byte(label))
	v.send("POST", "/admin/enroll", v.admin, object{"mac_address": d.MAC, "device_secret_hash": hash, "claim_secret_hash": hex.EncodeToString(of[:])})
	token := v.token(v.send("POST", "/api/auth/app-token", "", object{"provider": "dev", "id_token": "claimant@example.com"}))
	v.bodies("/api/devices/activate", token, label, "claim_secret", "device_id", "mac")
	v.send("POST", "/api/devices/activate", token, object{"device_id": d.ID, "claim_secret": label})
	client := v.Connect(d)
	if err := Provision(client, d); err != nil {
		v.t.Fatal(err)
	}
	proof := v.plant("a proof of possession", strings.ToLower(rand.Text() + rand.Text() + rand.Text())[:64])
	code := v.text(v.send("POST", "/api/devices/claims", token, object{}), "code")
	for _, payload := range []object{{"code": code, "nonce": "n1", "proof": proof}, {"code": proof}, {"nonce": []string{proof}}, {proof: 1}} {
		for _, topic := range []string{"claim", "claim/confirm"} {
			if err := wait(client.Publish(d.Topic(topic), 1, false, must2(json.Marshal(payload)))); err != nil {
				v.t.Fatal(err)
			}
		}
	}
	r := v.send("POST", "/api/devices/activate", token, object{"device_id": d.ID, "claim_secret": label})
	if r.status != http.StatusCreated {
		v.t.Errorf("claimed: %d %s", r.status, r.body)
	}
	v.bodies("/admin/devices/claim", v.admin, proof, "proof", "device_id", "user_id", "user_email")
	v.send("POST", "/admin/devices/claim", v.admin, object{"device_id": d.ID, "user_email": "other@example.com", "proof": proof})
	v.eventsComeIn(d)
}

// devicesComeIn enrols devices and lets them connect, well and badly.
func (v *voyage) devicesComeIn() {
	d, hash := v.factory()
	again, hash2 := v.factory()
	_, hash3 := v.factory()
	body := object{"mac_address": d.MAC, "device_secret_hash": hash}
	v.send("POST", "/admin/enroll", v.admin, body)
	v.send("POST", "/admin/enroll", v.admin, body)
	v.send("POST", "/admin/enroll", v.admin, object{"mac_address": d.MAC, "device_secret_hash": hash + "00"})
	v.bodies("/admin/enroll", v.admin, hash3, "device_secret_hash", "mac_address", "claim_secret_hash")
	csv := "mac_address,device_secret_hash\nx," + hash3 + "\n" + again.MAC + "," + hash2 + "\n" + hash3 + "," + hash3 + "ff\n"
	v.record(v.t, v.Cloud, request{"POST", "/admin/devices/import?partial=true", v.admin, "text/csv", csv})
	v.record(v.t, v.Cloud, request{"POST", "/admin/devices/import", v.admin, "text/csv", csv})
	path := "/admin/devices/" + d.ID + "/credentials"
	v.send("POST", path, v.admin, object{"kind": "hmac", "secret_hash": hash3})
	v.bodies(path, v.admin, hash3, "secret_hash", "kind", "certificate_pem")
	for _, version := range bothVersions {
		stranger := NewDevice()
		v.plant("the secret of a stranger "+stranger.ID, stranger.Secret)
		wrong := d
		wrong.Secret = stranger.Secret
		secretAsName := deviceHello(d, version)
		secretAsName.Username, secretAsName.ClientID = d.Secret, d.Secret
		secretAsWill := deviceHello(again, version)
		secretAsWill.Will = &mqttwire.Will{Topic: again.Topic("state"), Payload: []byte(again.Secret), QoS: 1}
		for _, hello := range []mqttwire.Connect{deviceHello(wrong, version), deviceHello(stranger, version), secretAsName, secretAsWill, deviceHello(again, version)} {
			client, _, err := v.try(hello)
			if err != nil {
				continue
			}
			_ = exchange(client, again)
			_, _ = client.Publish(mqttwire.Message{Topic: again.Topic("state"), Payload: []byte(again.Secret), QoS: 1})
			_, _ = client.Publish(mqttwire.Message{Topic: again.Secret, Payload: []byte("x"), QoS: 0})
			_ = client.Close()
		}
		hello := must(v.t, &mqttwire.Packet{Type: mqttwire.CONNECT, Connect: ptr(deviceHello(d, version))}, version)
		for _, cut := range []int{len(hello) - 3, len(hello) - 20} {
			broken := append([]byte(nil), hello...)
			broken[1] = byte(cut - 2)
			_, _, _ = v.rawConnect(append(broken[:cut], hello...))
		}
	}
}

// peopleListen connects apps, with tokens of all sorts.
func (v *voyage) peopleListen() {
	r := v.send("POST", "/api/auth/app-token", "", object{"provider": "dev", "id_token": "listener@example.com"})
	me := v.text(v.send("GET", "/api/me", v.token(r), nil), "user_id")
	bent := "bent+" + rand.Text()
	v.plant("a bent token of MQTT", bent)
	for _, version := range bothVersions {
		for _, token := range []string{v.token(r), v.token(r) + bent, bent} {
			for _, hello := range []mqttwire.Connect{personHello(User{ID: me, Token: token}, "x", version), staffHello(User{ID: me, Token: token}, "x", version), personHello(User{ID: token, Token: token}, "x", version)} {
				client, _, err := v.try(hello)
				if err != nil {
					continue
				}
				_, _ = client.Subscribe(mqttwire.Filter{Topic: topicRoot + "/+/state", QoS: 1})
				_, _ = client.Subscribe(mqttwire.Filter{Topic: token, QoS: 1})
				_ = client.Close()
			}
		}
	}
}

// staffLooks reads whatever staff may read: nothing of it is a secret.
func (v *voyage) staffLooks() {
	var list struct {
		Devices []struct {
			ID string `json:"device_id"`
		}
	}
	if err := json.Unmarshal([]byte(v.send("GET", "/admin/devices?limit=200", v.admin, nil).body), &list); err != nil || len(list.Devices) < 2 {
		v.t.Errorf("%d devices, %v", len(list.Devices), err)
	}
	for _, d := range list.Devices {
		for _, path := range []string{"/admin/devices/" + d.ID, "/admin/devices/" + d.ID + "/audit?limit=200", "/admin/devices/" + d.ID + "/connections", "/api/devices/" + d.ID + "/events"} {
			if r := v.send("GET", path, v.admin, nil); r.status != http.StatusOK {
				v.t.Errorf("%s: %d %s", path, r.status, r.body)
			}
		}
	}
	for _, path := range []string{"/admin/audit?limit=200", "/admin/stats", "/.well-known/jwks.json", "/readyz", "/openapi.yaml"} {
		if r := v.send("GET", path, v.admin, nil); r.status != http.StatusOK {
			v.t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
}

// nothingCanBeWritten lets the database be locked while secrets come in: errors of
// the program itself are logged with their cause.
func (v *voyage) nothingCanBeWritten() {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(v.DataDir(), "devicecloud.db")+"?_busy_timeout=10000")
	if err != nil {
		v.t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(context.Background())
	if err == nil {
		_, err = conn.ExecContext(context.Background(), "BEGIN IMMEDIATE")
	}
	if err != nil {
		v.t.Fatal(err)
	}
	d, hash := v.factory()
	requests := []request{
		{"POST", "/admin/auth/login", "", "", string(must2(json.Marshal(object{"email": adminEmail, "password": v.password})))},
		{"POST", "/api/auth/app-token", "", "", `{"provider":"dev","id_token":"nobody-yet@example.com"}`},
		{"POST", "/admin/enroll", v.admin, "", string(must2(json.Marshal(object{"mac_address": d.MAC, "device_secret_hash": hash})))},
		{"POST", "/admin/devices/import", v.admin, "text/csv", "mac_address,device_secret_hash\n" + d.MAC + "," + hash + "\n"},
	}
	inParallel(len(requests), len(requests), func(i int) {
		if r := v.record(v.t, v.Cloud, requests[i]); r.status/100 == 2 {
			v.t.Errorf("%s was done on a locked database", requests[i].path)
		}
	})
	if _, err := conn.ExecContext(context.Background(), "ROLLBACK"); err != nil {
		v.t.Error(err)
	}
	_ = conn.Close()
}

// badStarts starts programs that cannot run, with canaries in what is wrong.
func (v *voyage) badStarts() {
	password := v.plant("the password of DATABASE_URL", "database"+rand.Text())
	for _, url := range []string{
		"postgres://cloud:" + password + "@127.0.0.1:1/cloud?connect_timeout=2", "postgres://cloud:" + password + "@127.0.0.1:notaport/cloud", "mysql://cloud:" + password + "@127.0.0.1/cloud",
		"postgres://cloud:%" + password + "@127.0.0.1:1/cloud", "sqlite:/nowhere/" + "cloud.db", "postgres://127.0.0.1:1/cloud?password=" + password,
	} {
		v.badStart(map[string]string{"DATABASE_URL": url})
	}
	v.badStart(map[string]string{"ADMIN_PASSWORD": v.plant("a password without a name", "unnamed-"+rand.Text())})
	v.badStart(map[string]string{"TOKEN_SIGNING_KEY": v.plant("a signing key that is none", "nokey-"+rand.Text())})
	v.badStart(map[string]string{"SECRET_ENCRYPTION_KEY": v.plant("a sealing key that is none", "nokey-"+rand.Text())})
}

// badStart puts what a start says into the log that is searched.
func (v *voyage) badStart(changes map[string]string) {
	v.t.Helper()
	settings := map[string]string{"DATA_DIR": v.t.TempDir(), "HTTP_ADDR": "127.0.0.1:0", "METRICS_ADDR": "", "MQTT_TLS_ADDR": "127.0.0.1:0", "MQTT_ADDR": ""}
	for name, value := range changes {
		settings[name] = value
	}
	config, err := app.FromEnvironment(true, func(name string) (string, bool) {
		value, ok := settings[name]
		return value, ok
	})
	if err == nil {
		err = config.Prepare()
	}
	log := slog.New(slog.NewJSONHandler(v.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var a *app.App
	if err == nil {
		if a, err = app.New(context.Background(), config, log); err == nil {
			_ = a.Close()
			v.t.Errorf("it starts with wrong settings")
		}
	}
	log.Error("the start failed", "error", err)
	fmt.Fprintf(v.log, "%v %+v %#v %v\n", err, config, config, config.Settings())
}

// journeys are the ways through the program that secrets take.
var journeys = []struct {
	name string
	walk func(*voyage)
}{
	{"staff sign in", (*voyage).staffSignsIn},
	{"people sign in", (*voyage).peopleSignIn},
	{"providers vouch", (*voyage).providersVouch},
	{"staff come by a provider", (*voyage).staffComeByProvider},
	{"links are mailed", (*voyage).linksAreMailed},
	{"staff manage", (*voyage).staffManage},
	{"sessions end", (*voyage).sessionsEnd},
	{"devices come in", (*voyage).devicesComeIn},
	{"devices are claimed", (*voyage).devicesAreClaimed},
	{"people listen", (*voyage).peopleListen},
	{"nothing can be written", (*voyage).nothingCanBeWritten},
	{"starts that fail", (*voyage).badStarts},
	{"plans are sold", (*voyage).plansAreSold},
	{"staff look", (*voyage).staffLooks},
}

// TestNoSecretLeavesTheProgram walks every journey with secrets that the test knows,
// and then searches the log, the metrics, the answers and all bytes of the database
// for each of them, in every form.
func TestNoSecretLeavesTheProgram(t *testing.T) {
	t.Parallel()
	v := embark(t)
	for _, j := range journeys {
		said := len(v.Log())
		j.walk(v)
		t.Logf("%s: %d bytes of log", j.name, len(v.Log())-said)
	}
	for _, f := range v.sweep(t, v.Cloud) {
		t.Errorf("%s", f)
	}
	t.Logf("%d secrets, %d answers, %d bytes of log", len(v.values), len(v.heard), len(v.Log()))
	if len(v.values) < 25 || len(v.heard) < 100 || !strings.Contains(v.Log(), `"level":"DEBUG"`) || !strings.Contains(v.Log(), "request failed") {
		t.Error("the journeys did not go where secrets are")
	}
}

// TestTheSweepFindsALeakOfTheProgram leaks secrets on purpose, through everything that
// is searched.
func TestTheSweepFindsALeakOfTheProgram(t *testing.T) {
	t.Parallel()
	v := embark(t)
	d, hash := v.factory()
	v.send("POST", "/admin/enroll", v.admin, object{"mac_address": d.MAC, "device_secret_hash": hash})
	v.send("PATCH", "/api/devices/"+d.ID, v.admin, object{"name": v.password}) // a secret as a name is in the database, in answers and in the trail
	v.send("GET", "/nowhere/"+v.password, "", nil)                             // and in a path in the log
	v.send("GET", "/admin/audit", v.admin, nil)
	found := strings.Join(v.sweep(t, v.Cloud), "\n")
	for _, where := range []string{"log: ", "devicecloud.db-wal: ", "the answer to PATCH /api/devices/" + d.ID + ": ", "the answer to GET /admin/audit: "} {
		if !strings.Contains(found, where+"ADMIN_PASSWORD as text") {
			t.Errorf("%q is not found; it finds\n%s", where, found)
		}
	}
	if strings.Contains(found, "the hash of device") {
		t.Errorf("it finds\n%s", found)
	}
}
