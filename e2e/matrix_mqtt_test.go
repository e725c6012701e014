package e2e_test

import (
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// readRoute is the row of the matrix that MQTT and the event stream obey too.
const readRoute = "GET /api/devices/{id}"

func readRule(t *testing.T) (rule, noun) {
	t.Helper()
	i := slices.IndexFunc(matrix, func(r rule) bool { return r.route == readRoute })
	if i < 0 {
		t.Fatalf("the matrix has no row %s", readRoute)
	}
	n, _ := nounOf(t, "/api/devices/{id}")
	return matrix[i], n
}

// mayRead is whether the matrix lets one of the cast read a target.
func mayRead(t *testing.T, actor, target string) bool {
	r, n := readRule(t)
	return r.expect(t, actor, target, n).allowed()
}

// hello is the CONNECT of one of the cast.
func (s *stage) hello(t *testing.T, actor string, v mqttwire.Version) mqttwire.Connect {
	t.Helper()
	u := s.users[actor]
	switch {
	case slices.Contains(services, actor):
		id := s.hired[actor].id
		return mqttwire.Connect{Version: v, ClientID: "s:" + id + ":matrix", Username: "s:" + id, Password: []byte(s.token(t, actor)), KeepAlive: 60}
	case !slices.Contains(persons, actor):
		s.staffToken(t, actor)
		return staffHello(s.staff[actor], "matrix", v)
	}
	u.Token = s.token(t, actor)
	return personHello(u, "matrix", v)
}

// TestMQTTReadsByTheSameMatrix subscribes as each of the cast to each topic of each
// target: what HTTP shows of a device, MQTT delivers, and nothing else.
func TestMQTTReadsByTheSameMatrix(t *testing.T) {
	t.Parallel()
	th := openTheatre(t)
	s := th.build(t)
	targets := nouns["/api/devices/"].targets
	for _, actor := range cast {
		if actor == "anonymous" {
			continue // there is no CONNECT without a name
		}
		t.Run(actor, func(t *testing.T) {
			for _, v := range bothVersions {
				client := s.open(t, s.hello(t, actor, v))
				if _, err := client.Subscribe(mqttwire.Filter{Topic: "$SYS/#"}); (err == nil) != (actor == "admin") {
					t.Errorf("MQTT %s: $SYS: %v", v, err)
				}
				for _, target := range targets {
					d := s.device(actor, target)
					want := mayRead(t, actor, target) || target == "absent" && mayRead(t, actor, "foreign") // staff may name a device that is not there yet
					for _, suffix := range peopleHear {
						_, err := client.Subscribe(mqttwire.Filter{Topic: d.Topic(suffix), QoS: 1, RetainHandling: 2})
						if got := err == nil; got != want {
							t.Errorf("MQTT %s: %s of %s: allowed %t (%v), HTTP says %t", v, suffix, target, got, err, want)
						}
						if code := refusalCode(err); err != nil && (v == mqttwire.V5 && code != mqttwire.NotAuthorized || v == mqttwire.V311 && code != mqttwire.UnspecifiedError) {
							t.Errorf("MQTT %s: %s of %s is refused with 0x%02x: %v", v, suffix, target, byte(code), err)
						}
					}
					if _, err := client.Publish(mqttwire.Message{Topic: d.Topic("state"), Payload: statePayload(1), QoS: 1}); err == nil {
						t.Errorf("MQTT %s: they publish as %s", v, target)
					} else if v == mqttwire.V311 {
						client = s.open(t, s.hello(t, actor, v)) // it is closed for that
					}
				}
			}
		})
	}
}

// TestStreamsOpenByTheSameMatrix opens the event stream of each target as each of the
// cast.
func TestStreamsOpenByTheSameMatrix(t *testing.T) {
	t.Parallel()
	th := openTheatre(t)
	s := th.build(t)
	r, n := readRule(t)
	for _, actor := range cast {
		for _, target := range n.targets {
			want := r.expect(t, actor, target, n)
			ask := request{method: http.MethodGet, path: "/api/events/stream?device_id=" + s.device(actor, target).ID, token: s.token(t, actor)}
			s.records.mark(t)
			got := s.exchange(t, ask)
			s.check(t, got, want, actor, target)
		}
	}
}

// TestMessagesAreDeliveredByTheSameMatrix lets every device of a stage report while each
// of the cast listens, over MQTT and to the event stream, as widely as they may.
func TestMessagesAreDeliveredByTheSameMatrix(t *testing.T) {
	t.Parallel()
	th := openTheatre(t)
	s := th.build(t)
	devices, every := []Device{s.house}, "?device_id="+s.house.ID
	for _, name := range persons {
		devices = append(devices, s.own[name])
		every += "&device_id=" + s.own[name].ID
	}
	ears, streams := map[string]*mqttwire.Client{}, map[string]*liveStream{}
	for _, actor := range cast {
		if actor == "anonymous" {
			continue
		}
		ears[actor] = s.open(t, s.hello(t, actor, mqttwire.V5))
		if _, err := ears[actor].Subscribe(mqttwire.Filter{Topic: topicRoot + "/+/state", QoS: 1}); err != nil {
			t.Fatalf("%s: %v", actor, err)
		}
		query := every
		if slices.Contains(persons, actor) {
			query = "" // theirs, whatever that is
		}
		streams[actor] = s.stream(t, s.token(t, actor), query, "")
	}
	for _, d := range devices {
		client := s.open(t, deviceHello(d, mqttwire.V311))
		if err := report(client, d, 1); err != nil {
			t.Fatal(err)
		}
	}
	for actor, ear := range ears {
		over, live := map[string]bool{}, map[string]bool{}
		for {
			p, err := ear.Next(time.Second)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", actor, err)
			}
			over[strings.Split(p.Topic, "/")[1]] = true
		}
		for _, e := range streams[actor].come() { // after the second in which MQTT was silent
			live[e.deviceID()] = true
		}
		for _, d := range devices {
			want := s.exchange(t, request{method: http.MethodGet, path: "/api/devices/" + d.ID, token: s.token(t, actor)}).status == http.StatusOK
			if over[d.ID] != want || live[d.ID] != want {
				t.Errorf("%s: MQTT delivers a device's state: %t, the stream: %t, HTTP shows the device: %t", actor, over[d.ID], live[d.ID], want)
			}
		}
		delete(live, "")
		if len(over) > len(devices) || len(live) > len(devices) {
			t.Errorf("%s hears of %d and %d devices, and there are %d", actor, len(over), len(live), len(devices))
		}
	}
}
