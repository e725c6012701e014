package hooks_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
)

// lens is a cloud of video that is configured, in a region; nothing here asks it more.
type lens struct{ media.Cloud }

func (lens) Offers(media.Feature) bool { return true }
func (lens) Region() string            { return "us-east-1" }

// studio is a domain of video that comes after the hooks that ask it.
type studio struct{ *media.Service }

// What a device is told about video is in testdata/wire. The simulator is held against the
// same files.
func TestVideoIsInTestdata(t *testing.T) {
	video := &studio{}
	c := newCloud(t, func(s *setup) { s.hooks.Video = video })
	video.Service = media.New(c.db.Media(), c.reg, media.Options{
		Cloud: lens{}, IoT: media.IoT{Endpoint: "c1example.credentials.iot.us-east-1.amazonaws.com", RoleAlias: "camera"},
	})
	ctx := context.Background()
	d := thing{mac: "AA:BB:CC:DD:EE:FF", secret: "device-secret-example"}
	sum := sha256.Sum256([]byte(d.secret))
	e, err := c.reg.Enroll(ctx, admin, registry.EnrollRequest{MACAddress: d.mac, DeviceSecretHash: hex.EncodeToString(sum[:])})
	if err != nil {
		t.Fatal(err)
	}
	d.id = e.ID
	name := "cam-a81eaf01"
	staff := registry.Actor{Kind: registry.ActorAdmin, ID: "root", Scopes: []string{registry.ScopeConfigWrite}}
	if _, err := video.SetVideo(ctx, staff, d.id, media.VideoNames{StreamName: &name, ChannelName: &name}); err != nil {
		t.Fatal(err)
	}
	cl := c.connect(d, mqttwire.V311)
	subscribe(t, cl, 1, d.topic("kvs/config/response"), d.topic("command/+"))
	publish(t, cl, d.topic("kvs/config/request"), string(golden(t, "kvs-config.request")))
	if p := next(t, cl); p.Topic != d.topic("kvs/config/response") || p.QoS != 1 || p.Retain || !bytes.Equal(p.Payload, golden(t, "kvs-config-response")) {
		t.Errorf("got %s %s", p.Topic, p.Payload)
	}

	// Somebody who has no role on the device may be watching.
	stranger, now := c.login("eve"), time.Now().UTC()
	var want map[string]any
	if err := json.Unmarshal(golden(t, "command.end-viewer"), &want); err != nil {
		t.Fatal(err)
	}
	client, _ := want["params"].(map[string]any)["client_id"].(string)
	err = c.db.Media().InTx(ctx, func(tx media.Tx) error {
		row, err := tx.Device(ctx, d.id)
		return errors.Join(err, tx.InsertWatcher(ctx, media.Watcher{
			No: 1, DeviceNo: row.No, UserID: stranger.id, ClientID: client, VendedAt: now.Truncate(time.Microsecond), LiveUntil: now.Add(time.Hour).Truncate(time.Microsecond),
		}))
	})
	if err == nil {
		err = video.EndOutsiders(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	p := next(t, cl)
	var got map[string]any
	if err := json.Unmarshal(p.Payload, &got); err != nil || p.Topic != d.topic("command/end-viewer") || p.QoS != 1 || p.Retain {
		t.Fatalf("got %s %s", p.Topic, p.Payload)
	}
	if fields, wanted := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)); !slices.Equal(fields, wanted) {
		t.Errorf("fields %v, want %v", fields, wanted)
	}
	params, _ := got["params"].(map[string]any)
	if got["type"] != want["type"] || got["attempt"] != want["attempt"] || len(params) != 1 || params["client_id"] != client {
		t.Errorf("got %s", p.Payload)
	}
}
