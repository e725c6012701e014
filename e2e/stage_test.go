package e2e_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/mux"
	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/cmd/devicecloud/app"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
)

// theatre is a running cloud on which stage after stage is built.
type theatre struct {
	*Cloud
	db      *sqlstore.DB // the cloud's own, from outside
	records *ledger
	staff   map[string]User   // "support", "admin"
	hired   map[string]client // the service accounts of the cast
	member  string            // of staff, and
	spare   client            // a service account, and
	hook    string            // a webhook, for whoever may not change them
	stages  int
	common  *stage // that nothing on it changes
	bodies  int    // for names that nobody had yet
}

const supportEmail = "help@example.com"

func openTheatre(t *testing.T) *theatre {
	t.Helper()
	c := Start(t, Options{Env: map[string]string{"LOG_LEVEL": "warn"}})
	db, err := sqlstore.Open(context.Background(), "sqlite:"+filepath.Join(c.DataDir(), "devicecloud.db"), sqlstore.Options{NoMigrate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	th := &theatre{Cloud: c, db: db, records: c.openLedger(t), staff: map[string]User{}}
	c.hire(t, supportEmail, account.AdminRoleSupport)
	th.hired = map[string]client{
		"service": th.employ(t, `["device:read","device:control","device:configure","config:write","device:enroll","order:write","admin:sim"]`),
		"reader":  th.employ(t, `["device:read"]`),
	}
	c.scan.allow(th.hired["service"].token)
	return th
}

// hire makes a member of staff as `devicecloud admin create` does, with the password
// of the administrator.
func (c *Cloud) hire(t *testing.T, email string, role account.AdminRole) account.Admin {
	t.Helper()
	config, err := app.FromEnvironment(true, func(name string) (string, bool) {
		value, ok := c.env[name]
		return value, ok
	})
	if err == nil {
		err = config.PrepareStore()
	}
	if err != nil {
		t.Fatal(err)
	}
	o, err := app.OpenOperator(context.Background(), config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	a, err := o.CreateAdmin(context.Background(), email, adminPassword, role)
	if err == nil {
		err = o.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// staffToken is the token of a member of staff, renewed when it has been revoked.
func (th *theatre) staffToken(t *testing.T, role string) string {
	t.Helper()
	if u := th.staff[role]; u.Token != "" && th.Do(http.MethodGet, "/api/me", u.Token, nil, nil) == http.StatusOK {
		return u.Token
	}
	email := map[string]string{"admin": adminEmail, "support": supportEmail}[role]
	th.staff[role] = th.staffLogin(t, email, adminPassword)
	return th.staff[role].Token
}

// staffLogin logs a member of staff in.
func (c *Cloud) staffLogin(t *testing.T, email, password string) User {
	t.Helper()
	var answer struct {
		Token   string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		User    struct {
			ID string `json:"user_id"`
		} `json:"user"`
	}
	c.For(t).Post("/admin/auth/login", "", map[string]string{"email": email, "password": password}, &answer)
	return User{answer.User.ID, email, answer.Token, answer.Refresh}
}

// routes walks the router of the running program: "METHOD /path" of every route,
// HEAD aside. It reads the program's own field, so that a route cannot hide.
func (c *Cloud) routes(t *testing.T) (all []string) {
	t.Helper()
	handler := reflect.ValueOf(c.runner.(*inProcess).app).Elem().FieldByName("handler")
	router := (*mux.Router)(handler.Elem().Elem().FieldByName("router").UnsafePointer())
	err := router.Walk(func(r *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, err := r.GetPathTemplate()
		if err != nil {
			return err
		}
		methods, err := r.GetMethods()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, m := range methods {
			if m != http.MethodHead {
				all = append(all, m+" "+path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// persons are the people of a stage: what each is to the house is their name.
var persons = []string{"stranger", "viewer", "shared", "owner", "other"}

// services are the service accounts of the cast.
var services = []string{"service", "reader"}

// stage is a house with its people: the device of the house, which has an owner, a
// shared admin and a viewer; a device that each of the people owns alone; and, among
// those, the one of somebody who has nothing to do with the house.
type stage struct {
	*theatre
	users map[string]User // by name; without token until they are asked
	own   map[string]Device
	house Device
	none  Device // was never enrolled
	guest User   // has every device shared
	// invited are open invitations by whom they invite: to the device of another person.
	invited map[string]string
	// claims are claims that wait for a device, by whose they are, as they are asked for.
	claims map[string]string
}

// The ways in that the people of a stage have beside the dev provider.
const (
	secondProvider = "google"
	othersProvider = "wechat_miniprogram" // only of the one called other
)

// build makes a stage: the devices as a factory does, the people and what they are
// to the devices through the store, in one transaction.
func (th *theatre) build(t *testing.T) *stage {
	t.Helper()
	th.stages++
	s := &stage{theatre: th, users: map[string]User{}, own: map[string]Device{}, house: NewDevice(), none: NewDevice(), invited: map[string]string{}}
	csv := "mac_address,device_secret_hash\n" + line(s.house)
	for _, name := range persons {
		s.users[name] = User{ID: fmt.Sprintf("%s-%d", name, th.stages), Email: fmt.Sprintf("%s-%d@example.com", name, th.stages)}
		s.own[name] = NewDevice()
		csv += line(s.own[name])
	}
	s.guest = User{ID: fmt.Sprintf("guest-%d", th.stages), Email: fmt.Sprintf("guest-%d@example.com", th.stages)}
	if r := th.exchange(t, request{"POST", "/admin/devices/import", th.staffToken(t, "admin"), "text/csv", csv}); r.status != http.StatusOK {
		t.Fatalf("the devices of a stage: %d %s", r.status, r.body)
	}
	sims := "iccid,device_id\n" + newICCID() + "," + s.house.ID + "\n"
	for _, d := range s.own {
		sims += newICCID() + "," + d.ID + "\n"
	}
	if r := th.exchange(t, request{"POST", "/admin/sims/import", th.staffToken(t, "admin"), "text/csv", sims}); r.status != http.StatusOK {
		t.Fatalf("the SIM cards of a stage: %d %s", r.status, r.body)
	}
	ctx := context.Background()
	err := th.db.Accounts().InTx(ctx, func(tx account.Tx) error {
		at := time.Now()
		for name, u := range s.users {
			if err := tx.InsertUser(ctx, account.User{ID: u.ID, Email: u.Email, EmailVerified: true, CreatedAt: at}); err != nil {
				return err
			}
			providers := []string{account.ProviderDev, secondProvider}
			if name == "other" {
				providers = append(providers, othersProvider)
			}
			for _, provider := range providers {
				if err := tx.InsertIdentity(ctx, provider, u.Email, u.ID, at); err != nil {
					return err
				}
			}
			if err := give(ctx, tx, s.own[name], u, registry.RoleOwner); err != nil {
				return err
			}
		}
		for name, role := range map[string]registry.Role{"owner": registry.RoleOwner, "shared": registry.RoleAdmin, "viewer": registry.RoleViewer} {
			if err := give(ctx, tx, s.house, s.users[name], role); err != nil {
				return err
			}
		}
		if err := tx.InsertUser(ctx, account.User{ID: s.guest.ID, Email: s.guest.Email, EmailVerified: true, CreatedAt: at}); err != nil {
			return err
		}
		if err := give(ctx, tx, s.house, s.guest, registry.RoleViewer); err != nil {
			return err
		}
		for i, name := range persons {
			if err := give(ctx, tx, s.own[name], s.guest, registry.RoleViewer); err != nil {
				return err
			}
			inviter := persons[(i+1)%len(persons)]
			if err := s.invite(ctx, tx, name, inviter, int64(th.stages*100+i+2)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// invite offers a person a share of another's own device.
func (s *stage) invite(ctx context.Context, tx registry.Tx, name, by string, id int64) error {
	d, err := tx.Device(ctx, s.own[by].ID)
	if err != nil {
		return err
	}
	s.invited[name] = fmt.Sprint(id)
	_, err = tx.PutInvitation(ctx, registry.Invitation{
		ID: id, DeviceNo: d.No, Kind: registry.InviteShare, Email: s.users[name].Email, Role: registry.RoleViewer,
		InvitedBy: s.users[by].ID, CreatedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
	}, 20)
	return err
}

func line(d Device) string {
	sum := sha256.Sum256([]byte(d.Secret))
	return d.MAC + "," + hex.EncodeToString(sum[:]) + "\n"
}

// give writes a role on a device.
func give(ctx context.Context, tx registry.Tx, d Device, u User, role registry.Role) error {
	row, err := tx.Device(ctx, d.ID)
	if err != nil {
		return err
	}
	o := registry.Ownership{DeviceNo: row.No, UserID: u.ID, Role: role, At: time.Now()}
	if role == registry.RoleOwner {
		o.ClaimedAt, o.ClaimedVia = o.At, "support"
	} else {
		o.SharedAt, o.SharedBy = o.At, "somebody"
	}
	_, err = tx.InsertOwnership(ctx, o)
	return err
}

// token is the token of one of the cast; "" for anonymous.
func (s *stage) token(t *testing.T, name string) string {
	t.Helper()
	switch name {
	case "anonymous":
		return ""
	case "support", "admin":
		return s.staffToken(t, name)
	case "service":
		return s.hired[name].token
	case "reader":
		return s.hired[name].key
	}
	u := s.users[name]
	if u.Token == "" {
		u.Token = s.For(t).UserToken(u.Email).Token
		s.users[name] = u
	}
	return u.Token
}

// login is the answer to a person who comes in by the dev provider.
func (c *Cloud) login(t *testing.T, email string) (answer map[string]any) {
	t.Helper()
	c.For(t).Post("/api/auth/app-token", "", map[string]any{"provider": "dev", "id_token": email, "device": map[string]string{"install_id": "install-1"}}, &answer)
	return answer
}

// claimOf is a claim of an access token, as text.
func claimOf(t *testing.T, token, name string) string {
	t.Helper()
	claims := jwt.MapClaims{}
	if _, _, err := jwt.NewParser().ParseUnverified(token, claims); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(claims[name])
}

// request is one HTTP request; contentType "" is JSON when there is a body.
type request struct{ method, path, token, contentType, body string }

// reply is its answer.
type reply struct {
	status int
	header http.Header
	body   string
}

// exchange sends a request and reads the whole answer; of an endless one its head.
func (c *Cloud) exchange(t *testing.T, r request) reply {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.method, c.API()+r.path, bytes.NewReader([]byte(r.body)))
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case r.contentType != "":
		req.Header.Set("Content-Type", r.contentType)
	case r.body != "":
		req.Header.Set("Content-Type", "application/json")
	}
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	res, err := c.client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", r.method, r.path, err)
	}
	defer res.Body.Close()
	got := reply{status: res.StatusCode, header: res.Header}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		return got
	}
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", r.method, r.path, err)
	}
	got.body = string(text)
	return got
}
