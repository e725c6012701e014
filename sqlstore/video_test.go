package sqlstore_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
)

// video runs f in a transaction of the media domain.
func (s *store) video(f func(ctx context.Context, tx media.Tx) error) error {
	return s.Media().InTx(s.t.Context(), func(tx media.Tx) error { return f(s.t.Context(), tx) })
}

func TestVideoNames(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		first, second := s.enrol(1), s.enrol(2)
		put := func(no int64, v media.Video) error {
			return s.video(func(ctx context.Context, tx media.Tx) error { return tx.PutVideo(ctx, no, v, after(1)) })
		}
		get := func(no int64) (v media.Video) {
			if err := s.Media().View(t.Context(), func(tx media.Tx) (err error) { v, err = tx.Video(t.Context(), no); return err }); err != nil {
				t.Fatal(err)
			}
			return v
		}
		equal(t, "none", get(first), media.Video{})
		all := media.Video{StreamName: "a", StreamARN: "b", ChannelName: "c", ChannelARN: "d", ThingName: "e", UpdatedAt: after(1)}
		equal(t, "put", put(first, all), nil)
		equal(t, "put", get(first), all)
		equal(t, "again", put(first, all), nil)
		for name, v := range map[string]media.Video{
			"stream_name": {StreamName: "a"}, "stream_arn": {StreamARN: "b"}, "channel_name": {ChannelName: "c"}, "channel_arn": {ChannelARN: "d"}, "thing_name": {ThingName: "e"},
		} {
			if err := put(second, v); !errors.Is(err, media.ErrVideoTaken) {
				t.Errorf("another device's %s: %v", name, err)
			}
		}
		equal(t, "refused", get(second), media.Video{})
		// The same stream by its name and by its ARN is the same: the people of one device
		// would watch the other.
		arn := func(kind, name string) string {
			return "arn:aws:kinesisvideo:us-east-1:123456789012:" + kind + "/" + name + "/1700000000000"
		}
		for name, c := range map[string]struct{ has, wants media.Video }{
			"a stream's ARN beside its name":  {media.Video{StreamName: "cam_1"}, media.Video{StreamARN: arn("stream", "cam_1")}},
			"a stream's name beside its ARN":  {media.Video{StreamARN: arn("stream", "cam_1")}, media.Video{StreamName: "cam_1"}},
			"a channel's ARN beside its name": {media.Video{ChannelName: "cam_1"}, media.Video{ChannelARN: arn("channel", "cam_1")}},
			"a channel's name beside its ARN": {media.Video{ChannelARN: arn("channel", "cam_1")}, media.Video{ChannelName: "cam_1"}},
		} {
			equal(t, name, put(first, c.has), nil)
			if err := put(second, c.wants); !errors.Is(err, media.ErrVideoTaken) {
				t.Errorf("%s: %v", name, err)
			}
			equal(t, name+", of the device itself", put(first, c.wants), nil)
		}
		equal(t, "a name that looks alike", put(first, media.Video{StreamARN: arn("stream", "cam_1"), ChannelName: "d"}), nil)
		equal(t, "a name that looks alike", put(second, media.Video{StreamName: "camX1", ChannelName: "cam_1"}), nil)
		equal(t, "a name of another case", put(second, media.Video{StreamName: "CAM_1"}), nil)
		equal(t, "put back", put(first, all), nil)
		equal(t, "a stream may have a channel's name", put(second, media.Video{StreamName: "c", UpdatedAt: after(1)}), nil)
		equal(t, "taken away", put(first, media.Video{UpdatedAt: after(1)}), nil)
		equal(t, "free", put(second, media.Video{StreamName: "a", UpdatedAt: after(1)}), nil)
	})
}

// TestNamesRace gives one stream to many devices at once: one gets it.
func TestVideoNamesRace(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		const devices = 8
		var got atomic.Int32
		var all sync.WaitGroup
		for n := range devices {
			no := s.enrol(n + 1)
			all.Go(func() {
				err := s.video(func(ctx context.Context, tx media.Tx) error {
					return tx.PutVideo(ctx, no, media.Video{StreamARN: "the one"}, t0)
				})
				switch {
				case err == nil:
					got.Add(1)
				case !errors.Is(err, media.ErrVideoTaken):
					t.Error(err)
				}
			})
		}
		all.Wait()
		equal(t, "devices with the stream", got.Load(), 1)
	})
}

func TestVends(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no, other := s.enrol(1), s.enrol(2)
		id := int64(0)
		take := func(device int64, at time.Time) (wait time.Duration) {
			id++
			err := s.video(func(ctx context.Context, tx media.Tx) (err error) {
				wait, err = tx.TakeVend(ctx, id, device, at, at.Add(-time.Minute), at.Add(-24*time.Hour), 3)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return wait
		}
		equal(t, "first", take(no, t0), 0)
		equal(t, "after a second", take(no, after(1)), 59*time.Second)
		equal(t, "another device", take(other, after(1)), 0)
		equal(t, "after a minute", take(no, after(60)), 0)
		equal(t, "third", take(no, after(120)), 0)
		equal(t, "a fourth of the day", take(no, after(3600)), 23*time.Hour)
		equal(t, "taken back", s.video(func(ctx context.Context, tx media.Tx) error { return tx.DeleteVend(ctx, 1) }), nil)
		equal(t, "room again", take(no, after(3600)), 0)
		deleted := 0
		if err := s.video(func(ctx context.Context, tx media.Tx) (err error) {
			deleted, err = tx.DeleteVends(ctx, after(120), 10)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		equal(t, "deleted", deleted, 3)
	})
}

// TestVendsRace asks for one device from many sides at once: one is given.
func TestVendsRace(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		var given atomic.Int32
		var all sync.WaitGroup
		for n := range int64(12) {
			all.Go(func() {
				err := s.video(func(ctx context.Context, tx media.Tx) error {
					wait, err := tx.TakeVend(ctx, n+1, no, t0, after(-60), after(-86400), 40)
					if err == nil && wait > 0 {
						err = media.ErrTooOften
					}
					return err
				})
				switch {
				case err == nil:
					given.Add(1)
				case !errors.Is(err, media.ErrTooOften):
					t.Error(err)
				}
			})
		}
		all.Wait()
		equal(t, "given", given.Load(), 1)
	})
}

func TestOutsiders(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		no := s.enrol(1)
		for _, name := range []string{"owner", "shared", "early", "late", "gone"} {
			s.user(name, name+"@example.com")
		}
		s.own(no, "owner", registry.RoleOwner)
		s.own(no, "shared", registry.RoleViewer)
		s.write(func(ctx context.Context, tx account.Tx) error {
			_, err := tx.PutShare(ctx, registry.Ownership{DeviceNo: no, UserID: "early", Role: registry.RoleViewer, At: t0, EndsAt: after(10)})
			if err == nil {
				_, err = tx.PutShare(ctx, registry.Ownership{DeviceNo: no, UserID: "late", Role: registry.RoleViewer, At: t0, StartsAt: after(10)})
			}
			return err
		})
		for i, name := range []string{"owner", "shared", "early", "late", "gone", "gone"} {
			w := media.Watcher{No: int64(i + 1), DeviceNo: no, UserID: name, ClientID: "c" + string(rune('0'+i)), VendedAt: t0, LiveUntil: after(100)}
			if i == 5 {
				w.LiveUntil = after(5) // can watch no more
			}
			if err := s.video(func(ctx context.Context, tx media.Tx) error { return tx.InsertWatcher(ctx, w) }); err != nil {
				t.Fatal(err)
			}
		}
		outsiders := func(at time.Time) (names []string) {
			if err := s.Media().View(t.Context(), func(tx media.Tx) error {
				list, err := tx.Outsiders(t.Context(), at, 10)
				for _, w := range list {
					names = append(names, w.UserID)
					equal(t, "device", w.DeviceID, deviceID(1))
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return names
		}
		equal(t, "before", outsiders(after(1)), []string{"late", "gone", "gone"})
		equal(t, "after", outsiders(after(10)), []string{"early", "gone"})
		s.write(func(ctx context.Context, tx account.Tx) error {
			_, err := tx.DeleteShare(ctx, no, "shared")
			return err
		})
		equal(t, "unshared", outsiders(after(10)), []string{"shared", "early", "gone"})
		equal(t, "ended", s.video(func(ctx context.Context, tx media.Tx) error { return tx.DeleteWatcher(ctx, 2) }), nil)
		equal(t, "ended", outsiders(after(10)), []string{"early", "gone"})
		deleted := 0
		if err := s.video(func(ctx context.Context, tx media.Tx) (err error) {
			deleted, err = tx.DeleteWatchers(ctx, after(50), 10)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		equal(t, "swept", deleted, 1)
		equal(t, "at the end", len(outsiders(after(100))), 0)
	})
}
