package httpapi_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/httpapi"
	"github.com/opticworks/devicecloud/registry"
)

func TestStaffOverHTTP(t *testing.T) {
	t.Run("a second factor is set up, asked for and taken away", func(t *testing.T) {
		w, ids := newStaffHouse(t)
		login := func(totp string) reply {
			return w.do(t, call{method: "POST", path: "/admin/auth/login", body: `{"email":"help@example.com","password":"` + adminPassword + `","totp":"` + totp + `"}`})
		}
		start := w.do(t, call{method: "POST", path: "/admin/auth/totp", as: "support"}).want(t, 200, "")
		if u, err := url.Parse(start.at("otpauth_url").(string)); err != nil || u.Query().Get("secret") != start.at("secret") {
			t.Errorf("the answer is %s", start.raw)
		}
		w.do(t, call{method: "POST", path: "/admin/auth/totp/confirm", as: "support", body: `{"code":"abc"}`}).want(t, 400, "invalid_totp")
		w.do(t, call{method: "POST", path: "/admin/auth/totp/confirm", as: "support", body: `{"code":"` + totpCode(t, start.at("secret").(string), w.clock.Now(), -1) + `"}`}).want(t, 200, "")
		login("").want(t, 401, "totp_required")
		login("000000").want(t, 401, "invalid_credentials")
		login(totpCode(t, start.at("secret").(string), w.clock.Now(), 0)).want(t, 200, "")
		login(totpCode(t, start.at("secret").(string), w.clock.Now(), 0)).want(t, 401, "invalid_credentials")
		list := w.do(t, call{method: "GET", path: "/admin/staff", as: "admin"}).want(t, 200, "")
		if list.len("staff") != 2 || !strings.Contains(list.raw, `"totp":true`) || strings.Contains(list.raw, start.at("secret").(string)) {
			t.Errorf("the list is %s", list.raw)
		}
		w.do(t, call{method: "DELETE", path: "/admin/staff/" + ids["support"] + "/totp", as: "admin"}).want(t, 200, "")
		login("").want(t, 200, "")
		if strings.Contains(w.logs.String(), start.at("secret").(string)) {
			t.Error("the shared secret is in the log")
		}
	})
	t.Run("another role ends the member's sessions", func(t *testing.T) {
		w, ids := newStaffHouse(t)
		w.do(t, call{method: "PATCH", path: "/admin/staff/" + ids["support"], as: "admin", body: `{"role":"admin"}`}).want(t, 200, "")
		w.do(t, call{method: "GET", path: "/api/me", as: "support"}).want(t, 401, "invalid_token")
		me := w.do(t, call{method: "GET", path: "/api/me", as: "admin"}).want(t, 200, "")
		w.do(t, call{method: "PATCH", path: "/admin/staff/" + ids["support"], as: "admin", body: `{"role":"support"}`}).want(t, 200, "")
		w.do(t, call{method: "PATCH", path: "/admin/staff/" + me.at("user_id").(string), as: "admin", body: `{"role":"support"}`}).want(t, 409, "last_admin")
		w.do(t, call{method: "PATCH", path: "/admin/staff/" + me.at("user_id").(string), as: "admin", body: `{"disabled":true}`}).want(t, 409, "last_admin")
	})
	t.Run("a person is shown, signed out, locked out and erased", func(t *testing.T) {
		w, ids := newStaffHouse(t)
		owner := w.do(t, call{method: "GET", path: "/api/me", as: "owner"}).at("user_id").(string)
		page := "/admin/users/" + owner
		got := w.do(t, call{method: "GET", path: page, as: "support"}).want(t, 200, "")
		if got.at("email") != "owner@example.com" || got.at("devices", 0, "device_id") != ids["device"] || got.at("devices", 0, "role") != "owner" ||
			got.at("identities", 0, "provider") != "dev" || got.at("sessions") != 1.0 {
			t.Errorf("the person is %s", got.raw)
		}
		found := w.do(t, call{method: "GET", path: "/admin/users?q=OWNER@", as: "support"}).want(t, 200, "")
		if found.len("users") != 1 || found.at("users", 0, "user_id") != owner {
			t.Errorf("found %s", found.raw)
		}
		w.do(t, call{method: "POST", path: page + "/sign-out", as: "support"}).want(t, 200, "")
		w.do(t, call{method: "GET", path: "/api/me", as: "owner"}).want(t, 401, "invalid_token")
		w.login(t, "owner", "owner@example.com")
		w.do(t, call{method: "POST", path: page + "/disable", as: "admin"}).want(t, 200, "")
		w.do(t, call{method: "GET", path: "/api/me", as: "owner"}).want(t, 401, "invalid_token")
		w.do(t, call{method: "POST", path: "/api/auth/app-token", body: `{"provider":"dev","id_token":"owner@example.com"}`}).want(t, 403, "account_disabled")
		w.do(t, call{method: "POST", path: page + "/enable", as: "admin"}).want(t, 200, "")
		w.login(t, "owner", "owner@example.com")
		w.do(t, call{method: "DELETE", path: page, as: "admin"}).want(t, 200, "")
		w.do(t, call{method: "GET", path: "/api/me", as: "owner"}).want(t, 401, "invalid_token")
		w.do(t, call{method: "GET", path: page, as: "admin"}).want(t, 404, "user_not_found")
		detail := w.do(t, call{method: "GET", path: "/admin/devices/" + ids["device"], as: "admin"}).want(t, 200, "")
		if detail.at("owner") != nil {
			t.Errorf("the device still belongs to somebody: %s", detail.raw)
		}
	})
	t.Run("support staff see no secret, and each look at a device is in the trail", func(t *testing.T) {
		w, ids := newStaffHouse(t)
		all := ""
		for _, path := range []string{"/admin/devices", "/admin/devices/" + ids["device"], "/api/devices/" + ids["device"], "/admin/devices/" + ids["device"] + "/audit", "/admin/users", "/admin/users/" + ids["user"]} {
			all += w.do(t, call{method: "GET", path: path, as: "support"}).want(t, 200, "").raw
		}
		for _, secret := range []string{deviceSecret, sha256Hex(deviceSecret), adminPassword, "secret_hash", "password"} {
			if strings.Contains(all, secret) {
				t.Errorf("support staff see %q", secret)
			}
		}
		trail := w.do(t, call{method: "GET", path: "/admin/audit?event=device_read", as: "admin"}).want(t, 200, "")
		if trail.len("events") != 2 || trail.at("events", 0, "device_id") != ids["device"] || trail.at("events", 0, "by") != "support:"+ids["support"] {
			t.Errorf("the trail has %s", trail.raw)
		}
	})
}

// The gate and its explanation are one: for every caller, capability and scope both
// say the same.
func TestExplain(t *testing.T) {
	w, ids := newStaffHouse(t)
	ctx := context.Background()
	id := ids["device"]
	refs := map[string]string{"service": "service:" + ids["account"], "support": "support:" + ids["support"]}
	for _, name := range []string{"owner", "shared", "viewer", "stranger"} {
		refs[name] = "user:" + w.do(t, call{method: "GET", path: "/api/me", as: name}).at("user_id").(string)
	}
	refs["admin"] = "admin:" + w.do(t, call{method: "GET", path: "/api/me", as: "admin"}).at("user_id").(string)
	ask := func(t *testing.T, query string) reply {
		t.Helper()
		return w.do(t, call{method: "GET", path: "/admin/explain?" + query, as: "admin"})
	}
	for name, ref := range refs {
		actor, _, err := w.accounts.ActorByToken(ctx, w.tokens[name])
		if err != nil {
			t.Fatal(err)
		}
		for _, capability := range []string{"read", "control", "configure", "share", "leave"} {
			for _, device := range []string{id, strings.Repeat("0", 32)} {
				for scopes, list := range map[string][]string{"": actor.Scopes, "&scopes=": nil, "&scopes=device:read,device:configure": {"device:read", "device:configure"}} {
					a := actor
					a.Scopes = list
					c, _ := registry.ParseCapability(capability)
					_, verdict := w.reg.Access(ctx, a, device, c)
					got := ask(t, "actor="+ref+"&device_id="+device+"&capability="+capability+scopes).want(t, 200, verdictCode(verdict))
					if got.at("allowed") != (verdict == nil) || got.at("reason") == "" || got.at("capability") != capability {
						t.Errorf("%s %s %q: the gate says %v, the explanation %s", name, capability, scopes, verdict, got.raw)
					}
				}
			}
		}
	}
	t.Run("names a person by verified e-mail, and says that one is disabled", func(t *testing.T) {
		got := ask(t, "actor=email:Owner@example.com&device_id="+id+"&capability=share").want(t, 200, "")
		if got.at("allowed") != true || got.at("role") != "owner" || got.at("required_scope") != "device:configure" {
			t.Errorf("the answer is %s", got.raw)
		}
		w.do(t, call{method: "POST", path: "/admin/users/" + ids["user"] + "/disable", as: "admin"}).want(t, 200, "")
		got = ask(t, "actor=user:"+ids["user"]+"&device_id="+id+"&capability=read").want(t, 200, "account_disabled")
		if got.at("allowed") != false {
			t.Errorf("the answer is %s", got.raw)
		}
	})
	t.Run("refuses what it cannot answer", func(t *testing.T) {
		for query, want := range map[string]struct {
			status int
			code   string
		}{
			"": {400, "missing_fields"}, "actor=user:x&device_id=" + id: {400, "missing_fields"},
			"actor=user:x&device_id=" + id + "&capability=fly":                            {400, "invalid_request"},
			"actor=x&device_id=" + id + "&capability=read":                                {400, "invalid_request"},
			"actor=device:x&device_id=" + id + "&capability=read":                         {400, "invalid_request"},
			"actor=user:nobody&device_id=" + id + "&capability=read":                      {404, "user_not_found"},
			"actor=email:nobody@example.com&device_id=" + id + "&capability=read":         {404, "user_not_found"},
			"actor=email:nonsense&device_id=" + id + "&capability=read":                   {400, "invalid_email"},
			"actor=admin:nobody&device_id=" + id + "&capability=read":                     {404, "admin_not_found"},
			"actor=admin:" + ids["support"] + "&device_id=" + id + "&capability=read":     {404, "admin_not_found"},
			"actor=service:nobody&device_id=" + id + "&capability=read":                   {404, "service_account_not_found"},
			"actor=" + refs["owner"] + "&device_id=%27--&capability=read":                 {200, "device_not_found"},
			"actor=user:" + strings.Repeat("x", 300) + "&device_id=x&capability=read":     {400, "invalid_request"},
			"actor=" + refs["owner"] + "&device_id=" + id + "&capability=read&scopes=%00": {400, "invalid_request"},
		} {
			ask(t, query).want(t, want.status, want.code)
		}
	})
}

// totpCode is what an authenticator shows, some steps away from now. [RFC 6238]
func totpCode(t testing.TB, secret string, now time.Time, steps int64) string {
	t.Helper()
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha1.New, key)
	if err := binary.Write(mac, binary.BigEndian, now.Unix()/30+steps); err != nil {
		t.Fatal(err)
	}
	sum := mac.Sum(nil)
	at := sum[19] & 15
	return fmt.Sprintf("%06d", (binary.BigEndian.Uint32(sum[at:at+4])&0x7fffffff)%1000000)
}

func verdictCode(err error) string {
	switch registry.KindOf(err) {
	case registry.NotFound:
		return "device_not_found"
	case registry.Forbidden:
		return strings.SplitN(err.Error(), ":", 2)[0]
	}
	return ""
}

// staffIdP is an identity provider of staff that believes every code.
type staffIdP struct{ who account.StaffIdentity }

func (staffIdP) AuthURL(_ context.Context, f account.StaffFlow) (string, error) {
	return "https://idp.example.com/auth?state=" + f.State, nil
}

func (p staffIdP) Exchange(_ context.Context, code string, _ account.StaffFlow) (account.StaffIdentity, error) {
	if code != "good" {
		return account.StaffIdentity{}, account.ErrInvalidToken
	}
	return p.who, nil
}

func TestStaffOIDCOverHTTP(t *testing.T) {
	w := newWorld(t, nil)
	key, _, err := account.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	w.accounts, err = account.New(w.db.Accounts(), w.reg, account.Options{
		SigningKey: key, StaffGroups: account.StaffGroups{Admin: "ops"},
		StaffProvider: staffIdP{account.StaffIdentity{Subject: "s", Email: "ann@example.com", EmailVerified: true, Groups: []string{"ops"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Handler = httpapi.New(httpapi.Deps{Registry: w.reg, Accounts: w.accounts}, httpapi.Options{Logger: slog.New(slog.NewTextHandler(w.logs, nil))})
	begin := func(t *testing.T) (cookie, state string) {
		t.Helper()
		got := w.do(t, call{method: "GET", path: "/admin/auth/oidc"})
		if got.status != http.StatusFound {
			t.Fatalf("got %d: %s", got.status, got.raw)
		}
		set := got.header.Get("Set-Cookie")
		for _, attribute := range []string{"HttpOnly", "SameSite=Lax", "Path=/admin/auth/oidc", "Max-Age=600"} {
			if !strings.Contains(set, attribute) {
				t.Errorf("the cookie has no %s: %s", attribute, set)
			}
		}
		u, err := url.Parse(got.header.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		cookie, _, _ = strings.Cut(set, ";")
		return cookie, u.Query().Get("state")
	}
	back := func(t *testing.T, cookie, query string) reply {
		t.Helper()
		return w.do(t, call{method: "GET", path: "/admin/auth/oidc/callback?" + query, header: map[string]string{"Cookie": cookie}})
	}
	t.Run("the callback answers as the login by password does", func(t *testing.T) {
		cookie, state := begin(t)
		got := back(t, cookie, "code=good&state="+state).want(t, 200, "")
		if got.at("user", "role") != "admin" || !strings.Contains(got.header.Get("Set-Cookie"), "Max-Age=0") {
			t.Errorf("%v %s", got.header, got.raw)
		}
		w.tokens["ann"] = got.at("access_token").(string)
		w.do(t, call{method: "GET", path: "/admin/stats", as: "ann"}).want(t, 200, "")
	})
	t.Run("refuses what this browser did not begin, and what the provider refuses", func(t *testing.T) {
		cookie, state := begin(t)
		other, _ := begin(t)
		for _, c := range []struct{ cookie, query, code string }{
			{"", "code=good&state=" + state, "invalid_state"},
			{other, "code=good&state=" + state, "invalid_state"},
			{cookie, "code=good", "invalid_state"},
			{cookie, "code=good&state=" + state + "x", "invalid_state"},
			{"devicecloud_staff_login=%00", "code=good&state=" + state, "invalid_state"},
			{cookie, "error=access_denied&state=" + state, "invalid_token"},
			{cookie, "code=bad&state=" + state, "invalid_token"},
			{cookie, "", "invalid_state"},
		} {
			got := back(t, c.cookie, c.query).want(t, 401, c.code)
			checkRefusal(t, got)
		}
		if strings.Contains(w.logs.String(), state) {
			t.Error("the state is in the log")
		}
	})
}
