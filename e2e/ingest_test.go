package e2e_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	ingestSecret = "lake-Copper-41-moss-9Kq2vB7m"
	ingestRoute  = "/api/internal/aws/iot-event"
)

// deliver sends a body as a sender with the key k1 does.
func (c *Cloud) deliver(t *testing.T, path, body string) (int, map[string]any) {
	t.Helper()
	status, answer, err := c.delivery(path, body)
	if err != nil {
		t.Fatal(err)
	}
	return status, answer
}

func (c *Cloud) delivery(path, body string) (int, map[string]any, error) {
	ts := fmt.Sprint(time.Now().Unix())
	mac := hmac.New(sha256.New, []byte(ingestSecret))
	_, _ = mac.Write([]byte(ts + ".POST." + path + "." + body))
	req, err := http.NewRequest(http.MethodPost, c.API()+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("X-Ingest-Key-Id", "k1")
	req.Header.Set("X-Ingest-Timestamp", ts)
	req.Header.Set("X-Ingest-Signature", "v1="+hex.EncodeToString(mac.Sum(nil)))
	res, err := c.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	var answer map[string]any
	err = json.NewDecoder(res.Body).Decode(&answer)
	return res.StatusCode, answer, err
}

// eventsComeIn delivers events with the secret in every place where a sender may put it.
func (v *voyage) eventsComeIn(d Device) {
	v.t.Helper()
	sign := func(secret, body string) map[string]string {
		ts := fmt.Sprint(time.Now().Unix())
		mac := hmac.New(sha256.New, []byte(secret))
		_, _ = mac.Write([]byte(ts + ".POST." + ingestRoute + "." + body))
		return map[string]string{"X-Ingest-Key-Id": "k1", "X-Ingest-Timestamp": ts, "X-Ingest-Signature": "v1=" + hex.EncodeToString(mac.Sum(nil))}
	}
	send := func(body string, header map[string]string) {
		v.t.Helper()
		req, err := http.NewRequest(http.MethodPost, v.API()+ingestRoute, strings.NewReader(body))
		if err != nil {
			v.t.Fatal(err)
		}
		for name, value := range header {
			req.Header.Set(name, value)
		}
		res, err := v.client.Do(req)
		if err != nil {
			v.t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			v.t.Fatal(err)
		}
		v.hear("POST "+ingestRoute, reply{res.StatusCode, res.Header, string(text)})
	}
	body := motion(d, "canary-1")
	for range 2 {
		send(body, sign(v.ingestKey, body))
	}
	for _, bad := range []string{v.ingestKey, `{"secret":"` + v.ingestKey + `"}`, `{"events":["` + v.ingestKey + `"]}`, strings.Replace(body, "motion", v.ingestKey, 1)} {
		send(bad, sign(v.ingestKey, bad))
	}
	send(body, sign("another secret", body))
	for _, name := range []string{"X-Ingest-Key-Id", "X-Ingest-Timestamp", "X-Ingest-Signature"} {
		for _, value := range []string{v.ingestKey, "v1=" + v.ingestKey, "k1:" + v.ingestKey} {
			header := sign(v.ingestKey, body)
			header[name] = value
			send(body, header)
		}
	}
}

// motion is an event of a device.
func motion(d Device, id string) string {
	return fmt.Sprintf(`{"event_id":%q,"device_id":%q,"type":"motion","occurred_at":%q,"data":{"score":0.87}}`, id, d.ID, "2026-11-20T10:00:00Z")
}

type eventList struct {
	Events []struct {
		ID   string         `json:"event_id"`
		Type string         `json:"type"`
		Data map[string]any `json:"data"`
	} `json:"events"`
}

func (c *Cloud) events(path, token string) (list eventList) {
	c.t.Helper()
	c.Get(path, token, &list)
	return list
}

// A sender outside tells of motion, and the people of the device see it: in the list, at
// once on their stream, and once, however often it is sent.
func TestEventsFromOutside(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Env: map[string]string{"INGEST_KEYS": "k1:" + ingestSecret}})
	admin := c.AdminToken()
	d := c.EnrollAs(admin)
	owner := c.UserToken("owner@example.com")
	c.Post("/admin/devices/claim", admin, map[string]string{"device_id": d.ID, "user_email": owner.Email}, nil)
	stream := c.stream(t, owner.Token, "", "")
	stream.until("stream.snapshot")

	for i, path := range []string{ingestRoute, "/api/v1/internal/aws/iot-event", "/api/ingest/iot-events", "/api/v1/ingest/iot-events"} {
		id := fmt.Sprint("evt-", i)
		if status, answer := c.deliver(t, path, motion(d, id)); status != 202 || answer["accepted"] != 1.0 {
			t.Errorf("%s: %d %v", path, status, answer)
		}
		if status, answer := c.deliver(t, path, motion(d, id)); status != 200 || answer["duplicates"] != 1.0 {
			t.Errorf("%s again: %d %v", path, status, answer)
		}
	}
	list := c.events("/api/devices/"+d.ID+"/events?type=motion", owner.Token)
	if len(list.Events) != 4 || list.Events[0].Data["score"] != 0.87 {
		t.Errorf("the owner sees %+v", list)
	}
	if n := len(c.events("/api/devices/"+d.ID+"/events", admin).Events); n != 4 {
		t.Errorf("staff see %d", n)
	}
	if got := stream.until("device.event"); got.deviceID() != d.ID || got.Data["event"].(map[string]any)["type"] != "motion" {
		t.Errorf("the stream says %v", got)
	}
	stranger := c.UserToken("stranger@example.com")
	if status := c.Do(http.MethodGet, "/api/devices/"+d.ID+"/events", stranger.Token, nil, nil); status != 404 {
		t.Errorf("a stranger gets %d", status)
	}
	if status, answer := c.deliver(t, ingestRoute, strings.Replace(motion(d, "evt-0"), "0.87", "0.88", 1)); status != 409 || answer["error"] != "event_id_conflict" {
		t.Errorf("%d %v", status, answer)
	}
	if status, answer := c.deliver(t, ingestRoute, motion(NewDevice(), "evt-x")); status != 404 || answer["error"] != "device_not_found" {
		t.Errorf("%d %v", status, answer)
	}
	if status, answer := c.deliver(t, ingestRoute, strings.Repeat(" ", 65<<10)); status != 413 || answer["error"] != "body_too_large" {
		t.Errorf("%d %v", status, answer)
	}
	t.Run("the function of the documentation signs as it should", func(t *testing.T) { lambdaSends(t, c.For(t), d, owner.Token) })
	t.Run("one event 200 times at once is one event", func(t *testing.T) { deliveredAtOnce(t, []*Cloud{c}, d, owner.Token) })
}

// lambdaSends runs the function that the documentation shows for AWS Lambda.
func lambdaSends(t *testing.T, c *Cloud, d Device, token string) {
	const python = "/usr/bin/python3"
	skipWithout(t, python, exec.Command(python, "-c", "import hmac").Run() == nil)
	text, err := os.ReadFile("../docs/ingest.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, ok := strings.Cut(string(text), "```python\n")
	code, _, ended := strings.Cut(code, "```")
	if !ok || !ended {
		t.Fatal("docs/ingest.md shows no function")
	}
	cmd := exec.CommandContext(t.Context(), python, "-c", code+"\nprint(handler(json.loads(os.environ['MESSAGE']), None))\nprint(handler(json.loads(os.environ['MESSAGE']), None))\n")
	cmd.Env = append(os.Environ(), "CLOUD_URL="+c.API(), "INGEST_KEY_ID=k1", "INGEST_SECRET="+ingestSecret,
		fmt.Sprintf(`MESSAGE={"event_id":"lambda-1","device_id":%q,"received_ms":1789000000123,"score":0.5,"place":"Küche"}`, d.ID))
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "202\n200\n" {
		t.Errorf("%v: %s", err, out)
	}
	if list := c.events("/api/devices/"+d.ID+"/events?limit=1", token); list.Events[0].Data["score"] != 0.5 {
		t.Errorf("the newest event is %+v", list)
	}
}

// deliveredAtOnce sends one event to every cloud, 200 times in all.
func deliveredAtOnce(t *testing.T, clouds []*Cloud, d Device, token string) {
	before := len(clouds[0].events("/api/devices/"+d.ID+"/events?limit=200", token).Events)
	body := motion(d, "at-once")
	got := atOnce(200, func(i int) string {
		status, answer, err := clouds[i%len(clouds)].delivery(ingestRoute, body)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%d %v", status, answer)
	})
	if got["202 map[accepted:1 duplicates:0 rejected:[]]"] != 1 || got["200 map[accepted:0 duplicates:1 rejected:[]]"] != 199 {
		t.Errorf("the answers were %v", got)
	}
	if n := len(clouds[0].events("/api/devices/"+d.ID+"/events?limit=200", token).Events); n != before+1 {
		t.Errorf("there are %d events more", n-before)
	}
}

// atOnce does one thing n times in parallel, as senders do that repeat what they got no
// answer to, and counts the outcomes.
func atOnce(n int, do func(i int) string) map[string]int {
	var mu sync.Mutex
	var all sync.WaitGroup
	outcomes, begin := map[string]int{}, make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-begin
			out := do(i)
			mu.Lock()
			defer mu.Unlock()
			outcomes[out]++
		})
	}
	close(begin)
	all.Wait()
	return outcomes
}

// Two programs on one PostgreSQL get the same event at once.
func TestOneEventToTwoPrograms(t *testing.T) {
	t.Parallel()
	url := postgres.URL(t)
	env := func(node string) map[string]string {
		return map[string]string{"DATABASE_URL": url, "NODE_ID": node, "INGEST_KEYS": "k1:" + ingestSecret}
	}
	first := Start(t, Options{Env: env("node-1")})
	second := Start(t, Options{Env: env("node-2")})
	d := first.Enroll()
	deliveredAtOnce(t, []*Cloud{first, second}, d, first.AdminToken())
}

// Without a key nothing is taken, and nothing that is no key starts.
func TestIngestWithoutKeys(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	if status, answer := c.deliver(t, ingestRoute, `{}`); status != 500 || answer["error"] != "ingest_not_configured" {
		t.Errorf("%d %v", status, answer)
	}
}
