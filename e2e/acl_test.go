package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// The suffixes of the topic table, by who speaks.
var (
	deviceSpeaks = []string{
		"provision", "state", "telemetry", "config/status", "ota/status", "diag/response", "command/response",
		"claim", "claim/confirm", "kvs/credentials/request", "kvs/config/request", "targets/stream",
	}
	cloudSpeaks = []string{
		"provision/response", "config/update", "ota/trigger", "diag/request", "command/reboot", "claim/response",
		"claim/challenge", "kvs/credentials/response", "kvs/config/response",
	}
	peopleHear = []string{"state", "telemetry", "config/status", "ota/status", "command/response", "targets/stream"}
)

// goodPayload is a payload that the topic takes.
func goodPayload(d Device, suffix string) []byte {
	switch suffix {
	case "provision":
		return provisionPayload(d)
	case "state":
		return statePayload(7)
	case "telemetry":
		return fmt.Appendf(nil, `{"device_id":%q,"timestamp":"2026-01-15T10:00:00Z","metrics":{}}`, d.ID)
	case "config/status":
		return []byte(`{"version":3,"status":"applied","zone_count":2,"timestamp":"2026-01-15T10:00:00Z"}`)
	case "ota/status":
		return []byte(`{"status":"downloading","version":"1.3.0","progress":10,"rollout_id":"r1","timestamp":"2026-01-15T10:00:00Z"}`)
	case "diag/response":
		return []byte(`{"request_id":"r1","timestamp":"2026-01-15T10:00:00Z","diagnostics":{}}`)
	}
	return []byte(`{"request_id":"r1","purpose":"stream","command_id":"c1","status":"succeeded"}`)
}

// lookAlikes are ways to write another device's topic, or something that a careless
// reader takes for it. mine is the topic's own device.
func lookAlikes(mine, theirs Device, suffix string) []string {
	at := func(root, id, rest string) string { return root + "/" + id + "/" + rest }
	plain := at(topicRoot, theirs.ID, suffix)
	id := theirs.ID
	forms := []string{
		plain,
		strings.ToUpper(plain), at(strings.ToUpper(topicRoot), id, suffix), at("Opticworks", id, suffix), at(topicRoot, strings.ToUpper(id), suffix),
		at(topicRoot, id, strings.ToUpper(suffix)), at(topicRoot, strings.ToUpper(id[:1])+id[1:]+"", strings.ToUpper(suffix[:1])+suffix[1:]),
		"/" + plain, plain + "/", "//" + plain, at(topicRoot+"/", id, suffix), at(topicRoot, id+"/", suffix), at(topicRoot, "/"+id, suffix),
		at(topicRoot, mine.ID+"/../"+id, suffix), at(topicRoot, mine.ID+"/..", id+"/"+suffix), at(topicRoot, "./"+id, suffix), "./" + plain, "../" + plain,
		at(topicRoot+"/"+topicRoot, id, suffix), at(topicRoot, mine.ID+"/"+id, suffix), at(topicRoot, id+"/"+mine.ID, suffix), at(topicRoot, mine.ID, plain),
		topicRoot + `\` + id + `\` + suffix, at(topicRoot, id, "") + suffix + " ", " " + plain, plain + "\t", plain + "\n", plain + "\r\n", at(topicRoot, id+" ", suffix), at(topicRoot, " "+id, suffix),
		strings.ReplaceAll(plain, "/", "%2F"), strings.ReplaceAll(plain, "/", "%2f"), at(topicRoot, mine.ID+"/%2e%2e/"+id, suffix), at(topicRoot, mine.ID+"%00"+id, suffix),
		strings.ReplaceAll(plain, "/", "／"), strings.ReplaceAll(plain, "/", "∕"), strings.ReplaceAll(plain, "/", "⁄"), // look-alikes of the slash
		at("optıcworks", id, suffix), at("оpticworks", id, suffix), at("opticwоrks", id, suffix), at("ｏｐｔｉｃｗｏｒｋｓ", id, suffix), at("opticwor\u212as", id, suffix), // dotless i, Cyrillic o, full width, Kelvin sign
		at(topicRoot, fullWidth(id), suffix), at(topicRoot, cyrillic(id), suffix), at(topicRoot, mathematical(id), suffix), at(topicRoot, id+"\u0301", suffix),
		"\ufeff" + plain, at(topicRoot, "\ufeff"+id, suffix), at(topicRoot, id+"\u200b", suffix), at(topicRoot, id[:16]+"\u200b"+id[16:], suffix), at(topicRoot, id[:16]+"\u200d"+id[16:], suffix),
		at(topicRoot, id[:16]+"\u00ad"+id[16:], suffix), at(topicRoot, "\u202e"+id, suffix), at(topicRoot, id+"\u00a0", suffix), at(topicRoot, id+"\u2060", suffix), plain + "\u0085",
		at(topicRoot, id[:31], suffix), at(topicRoot, id+"0", suffix), at(topicRoot, id[:16]+mine.ID[16:], suffix), at(topicRoot, mine.ID[:31]+"x", suffix), at(topicRoot, mine.ID+id, suffix),
		at("opticwork", id, suffix), at("opticworks2", id, suffix), id + "/" + suffix, at("", id, suffix), at(topicRoot, "", suffix),
		"$share/g/" + plain, "$SHARE/g/" + plain, "$Share/g/" + plain, "$sHaRe/" + mine.ID + "/" + plain, "$share//" + plain, "$share/g//" + plain, "$share/" + plain,
		"$queue/" + plain, "$SYS/" + plain, "$sys/" + plain, "$CONTROL/" + plain, "$delayed/1/" + plain, "$exclusive/" + plain, "$local/" + plain, "$MQTT/" + plain, "$/" + plain,
		"\xc0\xaf" + plain, at(topicRoot, "\xed\xa0\x80"+id, suffix), at(topicRoot, id+"\xff", suffix), at(topicRoot, id+"\x00", suffix), plain + "\x00", // not UTF-8, or U+0000
	}
	return forms
}

func fullWidth(id string) string { return shifted(id, '０', 'ａ') }

func mathematical(id string) string { return shifted(id, '𝟎', '𝐚') }

// shifted replaces the hex digits by those that begin with the given ones.
func shifted(id string, zero, a rune) string {
	return strings.Map(func(r rune) rune {
		if r <= '9' {
			return zero + r - '0'
		}
		return a + r - 'a'
	}, id)
}

func cyrillic(id string) string {
	changed := strings.NewReplacer("a", "а", "c", "с", "e", "е").Replace(id)
	if changed == id {
		return "а" + id[1:]
	}
	return changed
}

// wildcards are filters that span more than the client's own topics.
func wildcards(mine, theirs Device) []string {
	forms := []string{
		"#", "+", "+/#", "+/+/#", "+/+/+", "+/+/state", "/#", "//#", topicRoot + "/#", topicRoot + "/+", topicRoot + "/+/#", topicRoot + "/+/+", topicRoot + "/+/+/+",
		"+/" + theirs.ID + "/#", "+/" + theirs.ID + "/state", topicRoot + "/" + theirs.ID + "/#", topicRoot + "/" + theirs.ID + "/+", topicRoot + "/" + theirs.ID + "/+/+", topicRoot + "/" + theirs.ID + "/command/+",
		topicRoot + "/" + theirs.ID + "/command/#", topicRoot + "/" + theirs.ID, "$SYS/#", "$SYS/broker/clients/connected", "$SYS/+/#", "$sys/#",
		topicRoot + "/" + theirs.ID + "+/state", topicRoot + "/" + theirs.ID[:31] + "+/state", topicRoot + "/" + theirs.ID + "/#/state", topicRoot + "/#/state", topicRoot + "#", topicRoot + "/" + theirs.ID + "#",
	}
	for _, suffix := range append(append([]string{}, deviceSpeaks...), cloudSpeaks...) {
		forms = append(forms, topicRoot+"/+/"+suffix, "+/+/"+suffix, "$share/g/"+topicRoot+"/+/"+suffix)
	}
	for _, f := range forms[:25] {
		forms = append(forms, "$share/g/"+f, "$SHARE/g/"+f)
	}
	return forms
}

// act is one thing that a client tries.
type act struct {
	kind    string // publish, subscribe, will, client id, user name, alias
	form    string
	suffix  string // of its payload
	version mqttwire.Version
	qos     byte
	allowed bool
}

func (a act) String() string {
	return fmt.Sprintf("%s %+q (MQTT %s, QoS %d)", a.kind, a.form, a.version, a.qos)
}

// impostures is the table: what X may not do, in every form, and what it may.
func impostures(x, y Device, rng *rand.Rand) (acts []act) {
	add := func(allowed bool, kind, suffix string, forms ...string) {
		for _, f := range forms {
			acts = append(acts, act{kind, f, suffix, bothVersions[rng.IntN(2)], byte(rng.IntN(2)) + 1, allowed})
		}
	}
	for _, suffix := range deviceSpeaks {
		add(false, "publish", suffix, y.Topic(suffix))
		add(false, "subscribe", suffix, x.Topic(suffix), y.Topic(suffix)) // not even its own
		add(false, "will", suffix, y.Topic(suffix))
	}
	for _, suffix := range cloudSpeaks {
		add(false, "publish", suffix, x.Topic(suffix), y.Topic(suffix)) // nobody speaks as the cloud
		add(false, "subscribe", suffix, y.Topic(suffix))
		add(false, "will", suffix, x.Topic(suffix), y.Topic(suffix))
	}
	for _, suffix := range []string{"state", "provision", "telemetry"} {
		add(false, "publish", suffix, lookAlikes(x, y, suffix)...)
	}
	for _, suffix := range []string{"provision/response", "config/update", "command/reboot"} {
		add(false, "subscribe", suffix, lookAlikes(x, y, suffix)...)
	}
	add(false, "will", "state", lookAlikes(x, y, "state")...)
	add(false, "subscribe", "", wildcards(x, y)...)
	add(false, "publish", "state", wildcards(x, y)[:31]...)
	add(false, "will", "state", wildcards(x, y)[:31]...)
	// Its own topics in forms that are not theirs.
	for _, f := range lookAlikes(y, x, "state")[1:] {
		add(false, "publish", "state", f)
	}
	for _, f := range lookAlikes(y, x, "provision/response")[1:] {
		add(false, "subscribe", "provision/response", f)
	}
	for _, f := range []string{"#", "+", "+/+", "+/+/+", "config/+", "provision/+", "command/#", "ota/+", "+/response"} {
		add(false, "subscribe", "", x.Topic(f))
	}
	names := append([]string{"", "+", "#", "/", "+/#", "a/b", "..", "u:" + x.ID, "a:" + x.ID, "s:" + x.ID, x.ID + y.ID, y.ID[:31]}, idForms(y)...)
	add(false, "client id", "", append(names, idForms(x)[1:]...)...)
	add(false, "user name", "", names[1:]...)
	for _, f := range []string{y.Topic("state"), x.Topic("state"), ""} {
		acts = append(acts, act{"alias", f, "state", mqttwire.V5, 1, false})
	}

	for _, v := range bothVersions {
		for _, qos := range []byte{0, 1, 2} {
			for _, suffix := range deviceSpeaks {
				acts = append(acts, act{"publish", x.Topic(suffix), suffix, v, qos, true})
			}
			for _, suffix := range append([]string{"command/+"}, cloudSpeaks...) {
				acts = append(acts, act{"subscribe", x.Topic(suffix), suffix, v, qos, true})
			}
			acts = append(acts, act{"will", x.Topic("state"), "state", v, qos, true}, act{"client id", x.ID, "", v, qos, true})
		}
	}
	rng.Shuffle(len(acts), func(i, j int) { acts[i], acts[j] = acts[j], acts[i] })
	return acts
}

// idForms are ways to write a device id.
func idForms(d Device) []string {
	id := d.ID
	return []string{
		id, strings.ToUpper(id), " " + id, id + " ", id + "\n", id + "\x00", "\ufeff" + id, id + "\u200b", fullWidth(id), cyrillic(id), mathematical(id), "0x" + id, id + "/state",
		topicRoot + "/" + id, "{" + id + "}", id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:], d.MAC, id + "'--", id + "%00", id + "\xff",
	}
}

// impostor is X with a connection for its tries, renewed when one ends it.
type impostor struct {
	t      *testing.T
	cloud  *Cloud
	device Device
	links  map[mqttwire.Version]*mqttwire.Client
}

func (x *impostor) link(v mqttwire.Version) *mqttwire.Client {
	if x.links[v] == nil {
		// The other version's connection is taken over by this one.
		x.drop()
		x.links[v] = x.cloud.open(x.t, deviceHello(x.device, v))
	}
	return x.links[v]
}

func (x *impostor) drop() {
	for v, client := range x.links {
		_ = client.Close()
		delete(x.links, v)
	}
}

// do tries one thing and reports whether it was allowed; err is anything else that
// went wrong.
func (x *impostor) do(a act) (allowed bool, err error) {
	hello := deviceHello(x.device, a.version)
	switch a.kind {
	case "publish", "alias":
		m := mqttwire.Message{Topic: a.form, Payload: goodPayload(x.device, a.suffix), QoS: a.qos}
		if a.kind == "alias" {
			m.Properties = mqttwire.Properties{mqttwire.Number(mqttwire.PropTopicAlias, 1)}
		}
		_, err = x.link(a.version).Publish(m)
		if err == nil && a.qos == 0 {
			err = x.link(a.version).Ping()
		}
		return x.judge(a, err)
	case "subscribe":
		_, err = x.link(a.version).Subscribe(mqttwire.Filter{Topic: a.form, QoS: a.qos})
		return x.judge(a, err)
	case "will":
		hello.Will = &mqttwire.Will{Topic: a.form, Payload: []byte(`{"online":false}`), QoS: a.qos, Retain: true}
	case "client id":
		hello.ClientID = a.form
	case "user name":
		hello.Username, hello.ClientID = a.form, a.form
	}
	client, _, err := x.cloud.try(hello)
	if err == nil {
		x.links = map[mqttwire.Version]*mqttwire.Client{}
		_ = client.Close() // so that the will is due
	}
	return x.judge(a, err)
}

// judge tells a refusal from a failure. After one that closes, the next try opens
// a new connection.
func (x *impostor) judge(a act, err error) (bool, error) {
	if err == nil {
		return true, nil
	}
	var refused *mqttwire.RefusedError
	var gone *mqttwire.DisconnectedError
	if errors.As(err, &refused) {
		return false, nil
	}
	delete(x.links, a.version)
	if errors.As(err, &gone) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(err.Error(), "reset") || strings.Contains(err.Error(), "broken pipe") {
		return false, nil
	}
	return false, err
}

func TestNoFormOfATopicSpeaksOrHearsAsAnotherDevice(t *testing.T) {
	t.Parallel()
	rng := seeded(t)
	c := Start(t, Options{Env: map[string]string{"LOG_LEVEL": "info"}})
	admin := c.AdminToken()
	x, y := c.EnrollAs(admin), c.EnrollAs(admin)

	// Y hears all that it may, and reports once. Then it is silent.
	victim := c.open(t, deviceHello(y, mqttwire.V5))
	for _, suffix := range append([]string{"command/+"}, cloudSpeaks...) {
		if _, err := victim.Subscribe(mqttwire.Filter{Topic: y.Topic(suffix), QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := report(victim, y, 77); err != nil {
		t.Fatal(err)
	}
	before := c.Look(y, admin)
	// An administrator hears everything.
	bystander := c.open(t, staffHello(c.staff(t), "bystander", mqttwire.V5))
	if _, err := bystander.Subscribe(mqttwire.Filter{Topic: "#", RetainHandling: 2}); err != nil {
		t.Fatal(err)
	}

	acts := impostures(x, y, rng)
	forbidden := map[string]bool{}
	impostor := &impostor{t: t, cloud: c, device: x, links: map[mqttwire.Version]*mqttwire.Client{}}
	for i, a := range acts {
		if !a.allowed {
			forbidden[a.kind+a.form] = true
		}
		switch allowed, err := impostor.do(a); {
		case err != nil:
			t.Errorf("%s: %v", a, err)
		case allowed != a.allowed:
			t.Errorf("%s: allowed %t, want %t", a, allowed, a.allowed)
		}
		if i%50 == 0 {
			if err := victim.Ping(); err != nil {
				t.Fatalf("after %s the victim is cut off: %v", a, err)
			}
		}
	}
	t.Logf("%d forbidden forms, %d acts in all", len(forbidden), len(acts))
	if len(forbidden) < 500 {
		t.Errorf("only %d forbidden forms", len(forbidden))
	}

	t.Run("nothing of it reached the victim", func(t *testing.T) {
		after := c.Look(y, admin)
		if !reflect.DeepEqual(before, after) {
			t.Errorf("the registry had %+v, and has %+v", before, after)
		}
		if p, err := victim.Next(200 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the victim got %+v, %v", p, err)
		}
		for {
			p, err := bystander.Next(200 * time.Millisecond)
			if err != nil {
				break
			}
			if !strings.HasPrefix(p.Topic, topicRoot+"/"+x.ID+"/") && !strings.HasPrefix(p.Topic, "$SYS/") {
				t.Errorf("a bystander got %s on %q", p.Payload, p.Topic)
			}
		}
	})
	t.Run("and X hears nothing of what Y says", func(t *testing.T) {
		impostor.drop()
		ear := c.open(t, deviceHello(x, mqttwire.V5))
		for _, a := range acts {
			if a.kind == "subscribe" && !a.allowed && utf8.ValidString(a.form) && !strings.Contains(a.form, "\x00") && len(a.form) > 0 {
				_ = ear.Write(&mqttwire.Packet{Type: mqttwire.SUBSCRIBE, PacketID: ear.NextID(), Filters: []mqttwire.Filter{{Topic: a.form, QoS: 1}}})
			}
		}
		if err := exchange(ear, x); err != nil {
			t.Fatalf("X does not hear what it may: %v", err)
		}
		if err := exchange(victim, y); err != nil {
			t.Fatal(err)
		}
		for _, suffix := range deviceSpeaks {
			if _, err := victim.Publish(mqttwire.Message{Topic: y.Topic(suffix), Payload: goodPayload(y, suffix), QoS: 1}); err != nil {
				t.Errorf("Y's own %s: %v", suffix, err)
			}
		}
		if p, err := ear.Next(300 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("X got %+v, %v", p, err)
		}
	})
}

func TestPeopleHearTheirOwnDevicesOnly(t *testing.T) {
	t.Parallel()
	rng := seeded(t)
	c := Start(t, Options{Env: map[string]string{"LOG_LEVEL": "info"}})
	admin := c.AdminToken()
	mine, theirs := c.EnrollAs(admin), c.EnrollAs(admin)
	user := c.owned(t, admin, "mine@example.com", mine)
	c.owned(t, admin, "theirs@example.com", theirs)
	// What a person may name is anything within their devices, and {root}/+/... .
	spans := map[string]bool{}
	var forbidden, allowed []string
	for _, suffix := range peopleHear {
		allowed = append(allowed, mine.Topic(suffix), topicRoot+"/+/"+suffix)
		spans[topicRoot+"/+/"+suffix] = true
		forbidden = append(forbidden, theirs.Topic(suffix))
	}
	for _, f := range []string{"#", "+", "+/+"} {
		allowed = append(allowed, mine.Topic(f), topicRoot+"/+/"+f)
		spans[topicRoot+"/+/"+f] = true
	}
	secret := []string{"provision", "provision/response", "claim", "claim/response", "claim/challenge", "claim/confirm", "kvs/credentials/request", "kvs/credentials/response", "kvs/config/response", "kvs/#", "kvs/credentials/+", "diag/response", "config/update", "command/reboot"}
	for _, suffix := range secret {
		forbidden = append(forbidden, mine.Topic(suffix), theirs.Topic(suffix))
	}
	forbidden = append(forbidden, lookAlikes(mine, theirs, "state")...)
	forbidden = append(forbidden, lookAlikes(mine, theirs, "telemetry")...)
	forbidden = append(forbidden, lookAlikes(theirs, mine, "state")[1:]...)
	for _, f := range wildcards(mine, theirs) {
		if !spans[f] && f != topicRoot+"/+/#" && f != topicRoot+"/+/+" && f != topicRoot+"/+/+/+" {
			forbidden = append(forbidden, f)
		}
	}
	var app *mqttwire.Client
	for _, f := range forbidden {
		v := bothVersions[rng.IntN(2)]
		if app == nil || rng.IntN(10) == 0 {
			app = c.open(t, personHello(user, "tries", v))
		}
		_, err := app.Subscribe(mqttwire.Filter{Topic: f, QoS: byte(rng.IntN(3))})
		if refusalCode(err) == 0 {
			if err == nil {
				t.Errorf("a person may subscribe to %+q", f)
			}
			app = nil // closed: it was malformed
		}
	}
	ear := c.open(t, personHello(user, "ear", mqttwire.V5))
	for _, f := range allowed {
		if _, err := ear.Subscribe(mqttwire.Filter{Topic: f, QoS: 1, RetainHandling: 2}); err != nil {
			t.Errorf("a person may not subscribe to %s: %v", f, err)
		}
	}
	for _, topic := range []string{mine.Topic("state"), mine.Topic("command/reboot"), theirs.Topic("state"), "x", "$SYS/x"} {
		for _, v := range bothVersions {
			talker := c.open(t, personHello(user, "talker", v))
			if _, err := talker.Publish(mqttwire.Message{Topic: topic, Payload: statePayload(1), QoS: 1}); err == nil || v == mqttwire.V5 && refusalCode(err) != mqttwire.NotAuthorized {
				t.Errorf("MQTT %s: a person publishes to %s: %v, want 0x87", v, topic, err)
			}
		}
	}
	for _, d := range []Device{theirs, mine} {
		client := c.open(t, deviceHello(d, mqttwire.V311))
		for _, suffix := range deviceSpeaks {
			if _, err := client.Publish(mqttwire.Message{Topic: d.Topic(suffix), Payload: goodPayload(d, suffix), QoS: 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	heard := map[string]bool{}
	for {
		p, err := ear.Next(500 * time.Millisecond)
		if err != nil {
			break
		}
		suffix, own := strings.CutPrefix(p.Topic, topicRoot+"/"+mine.ID+"/")
		if !own {
			t.Errorf("a person hears %s on %s", p.Payload, p.Topic)
		}
		heard[suffix] = true
	}
	for _, suffix := range peopleHear {
		if !heard[suffix] {
			t.Errorf("a person does not hear %s of their own device", suffix)
		}
		delete(heard, suffix)
	}
	if len(heard) > 0 {
		t.Errorf("a person hears %v, which is not for people", heard)
	}
	if status := c.Do(http.MethodGet, "/api/devices/"+theirs.ID, user.Token, nil, nil); status != http.StatusNotFound {
		t.Errorf("over HTTP another's device answers %d", status)
	}
	t.Logf("%d filters refused, %d allowed", len(forbidden), len(allowed))
}
