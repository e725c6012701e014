package hooks_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/registry"
)

const oneZone = `[{"id":"z1","name":"Sofa","type":"include","vertices":[[0,0],[2000,0],[2000,1500]],"sensitivity":50}]`

var configurer = registry.Actor{Kind: registry.ActorAdmin, ID: "root", Scopes: []string{
	registry.ScopeDeviceRead, registry.ScopeDeviceConfigure, registry.ScopeDeviceControl,
}}

func (c *cloud) configure(d thing, replaces int64, zones string) (registry.ConfigState, error) {
	list, err := registry.ParseZones([]byte(zones))
	if err != nil {
		c.t.Fatal(err)
	}
	return c.reg.SetDeviceConfig(context.Background(), configurer, d.id, replaces, list)
}

func TestConfiguration(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	ctx := context.Background()
	if s, err := c.configure(d, 0, oneZone); err != nil || s.Desired.Version != 1 || s.InSync() {
		t.Fatalf("%+v %v", s, err)
	}
	update := func(cl *mqttwire.Client) (version int64) {
		t.Helper()
		p := next(t, cl)
		var got struct {
			Version int64
			Updated time.Time `json:"updated_at"`
			Zones   []registry.Zone
		}
		if err := json.Unmarshal(p.Payload, &got); err != nil || p.Topic != d.topic("config/update") || got.Updated.IsZero() || len(got.Zones) != 1 {
			t.Fatalf("%s %s: %v", p.Topic, p.Payload, err)
		}
		return got.Version
	}
	reports := func(cl *mqttwire.Client, version int64, status string) {
		t.Helper()
		publish(t, cl, d.topic("config/status"), fmt.Sprintf(`{"version":%d,"status":%q,"zone_count":1}`, version, status))
	}
	cl := c.connect(d, mqttwire.V311)
	t.Run("comes after the SUBACK while the device does not have it", func(t *testing.T) {
		for range 2 {
			subscribe(t, cl, 1, d.topic("config/update"))
			if v := update(cl); v != 1 {
				t.Errorf("version %d", v)
			}
		}
		reports(cl, 1, "applied")
		s, err := c.reg.DeviceConfig(ctx, configurer, d.id)
		if err != nil || !s.InSync() {
			t.Errorf("%+v %v", s, err)
		}
		subscribe(t, cl, 1, d.topic("config/update"))
		silent(t, cl)
	})
	t.Run("comes at once when it changes", func(t *testing.T) {
		if _, err := c.configure(d, 1, oneZone); err != nil {
			t.Fatal(err)
		}
		if v := update(cl); v != 2 {
			t.Errorf("version %d", v)
		}
	})
	t.Run("does not come again when the device has rejected it", func(t *testing.T) {
		reports(cl, 2, "rejected")
		subscribe(t, cl, 1, d.topic("config/update"))
		publish(t, cl, d.topic("state"), strings.Replace(goodState, "}", `,"config_version":1}`, 1))
		silent(t, cl)
	})
	t.Run("comes again to a device that has lost it", func(t *testing.T) {
		reports(cl, 2, "applied")
		subscribe(t, cl, 1, d.topic("config/update"))
		silent(t, cl)
		for range 2 {
			publish(t, cl, d.topic("state"), strings.Replace(goodState, "}", `,"config_version":0}`, 1))
		}
		if v := update(cl); v != 2 {
			t.Errorf("version %d", v)
		}
		silent(t, cl) // once over a connection
	})
	t.Run("is above what the device has", func(t *testing.T) {
		reports(cl, 9, "applied")
		if s, err := c.configure(d, 2, oneZone); err != nil || s.Desired.Version != 10 {
			t.Errorf("%+v %v", s, err)
		}
	})
	t.Run("of another version is not replaced", func(t *testing.T) {
		if _, err := c.configure(d, 2, oneZone); !errors.Is(err, registry.ErrVersionConflict) {
			t.Errorf("%v", err)
		}
	})
	t.Run("fits into the device's buffer", func(t *testing.T) {
		zone := func(i int) string {
			return fmt.Sprintf(`{"id":"z%d","name":"%s","type":"include","vertices":[[0,0],[2000,0],[2000,1500]],"sensitivity":50}`, i, strings.Repeat("x", 32))
		}
		var zones []string
		for i := range 9 {
			zones = append(zones, zone(i))
		}
		if _, err := c.configure(d, 10, "["+strings.Join(zones, ",")+"]"); !errors.Is(err, registry.ErrConfigTooLarge) {
			t.Errorf("%v", err)
		}
	})
}

func TestDiagnostics(t *testing.T) {
	c := newCloud(t)
	d, other := c.enroll(), c.enroll()
	ctx := context.Background()
	if _, err := c.reg.Diagnose(ctx, configurer, d.id, nil, time.Minute); !errors.Is(err, registry.ErrOffline) {
		t.Errorf("of a device that is away: %v", err)
	}
	cl, stranger := c.connect(d, mqttwire.V5), c.connect(other, mqttwire.V5)
	subscribe(t, cl, 1, d.topic("diag/request"))
	if got, err := c.reg.Diagnose(ctx, configurer, d.id, []string{"heap"}, time.Millisecond); err != nil || got.Answered {
		t.Errorf("without an answer: %+v %v", got, err)
	}
	next(t, cl)
	answers := make(chan registry.Diagnosis, 1)
	go func() {
		got, _ := c.reg.Diagnose(ctx, configurer, d.id, []string{"heap"}, time.Minute)
		answers <- got
	}()
	var asked struct {
		RequestID string `json:"request_id"`
		Include   []string
	}
	if p := next(t, cl); json.Unmarshal(p.Payload, &asked) != nil || len(asked.Include) != 1 || asked.RequestID == "" {
		t.Fatalf("%s", p.Payload)
	}
	publish(t, stranger, other.topic("diag/response"), fmt.Sprintf(`{"request_id":%q,"diagnostics":{"heap":0}}`, asked.RequestID))
	publish(t, cl, d.topic("diag/response"), fmt.Sprintf(`{"request_id":%q,"diagnostics":{"heap":5}}`, asked.RequestID))
	if got := <-answers; !got.Answered || string(got.Result) != `{"heap":5}` {
		t.Errorf("%+v %s", got, got.Result)
	}
}
