package aws

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"net/http"
	"strings"
	"time"
)

// routes mounts every operation. [AWS, API references of Kinesis Video Streams]
func (s *Server) routes() {
	video := func(path, name string, resource func(*call) (string, error), serve func(*call) error) {
		s.handle("POST "+path, operation{name: name, service: serviceVideo, resource: resource, serve: serve})
	}
	s.mux.HandleFunc("POST /", s.query)
	video("/describeStream", "DescribeStream", streamOf, describeStream)
	video("/getDataEndpoint", "GetDataEndpoint", streamOf, dataEndpoint)
	video("/describeSignalingChannel", "DescribeSignalingChannel", channelOf, describeChannel)
	video("/getSignalingChannelEndpoint", "GetSignalingChannelEndpoint", channelOf, channelEndpoint)
	video("/getHLSStreamingSessionURL", "GetHLSStreamingSessionURL", streamOf, session("HLS", "/hls/v1/getHLSMasterPlaylist.m3u8"))
	video("/getDASHStreamingSessionURL", "GetDASHStreamingSessionURL", streamOf, session("DASH", "/dash/v1/getDASHManifest.mpd"))
	video("/getClip", "GetClip", streamOf, clip)
	video("/getImages", "GetImages", streamOf, images)
	video("/v1/get-ice-server-config", "GetIceServerConfig", channelOf, iceServers)
	s.mux.HandleFunc("GET /hls/v1/getHLSMasterPlaylist.m3u8", s.watch)
	s.mux.HandleFunc("GET /dash/v1/getDASHManifest.mpd", s.watch)
	s.mux.HandleFunc("GET /{$}", s.connect)
}

// streamOf is the ARN of the stream that a call is about.
func streamOf(c *call) (string, error) {
	var in struct{ StreamName, StreamARN string }
	if err := c.decode(&in); err != nil {
		return "", err
	}
	return c.s.find(c.s.streams, in.StreamName, in.StreamARN)
}

// channelOf is the ARN of the signalling channel that a call is about.
func channelOf(c *call) (string, error) {
	var in struct{ ChannelName, ChannelARN string }
	if err := c.decode(&in); err != nil {
		return "", err
	}
	return c.s.find(c.s.channels, in.ChannelName, in.ChannelARN)
}

// find looks a stream or channel up. What is asked for by an ARN is judged by that ARN,
// whether it is there or not, so that nobody learns what exists.
func (s *Server) find(in map[string]string, name, arn string) (string, error) {
	if (name == "") == (arn == "") {
		return "", &problem{http.StatusBadRequest, "InvalidArgumentException", "Give the name or the ARN."}
	}
	if arn != "" {
		return arn, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if arn = in[name]; arn == "" {
		return "", errNoResource
	}
	return arn, nil
}

var (
	errNoResource = &problem{http.StatusNotFound, "ResourceNotFoundException", "The requested resource is not found or not active."}
	errArgument   = &problem{http.StatusBadRequest, "InvalidArgumentException", "An argument is not valid."}
)

// exists checks that an ARN is of something that is there.
func (s *Server) exists(in map[string]string, arn string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if parts := strings.Split(arn, "/"); len(parts) == 3 && in[parts[1]] == arn {
		return nil
	}
	return errNoResource
}

func describeStream(c *call) error {
	arn, err := streamOf(c)
	if err == nil {
		err = c.s.exists(c.s.streams, arn)
	}
	if err != nil {
		return err
	}
	return c.reply(map[string]any{"StreamInfo": map[string]any{
		"StreamName": strings.Split(arn, "/")[1], "StreamARN": arn, "Status": "ACTIVE", "DataRetentionInHours": 24, "MediaType": "video/h264", "Version": "v1",
	}})
}

func describeChannel(c *call) error {
	arn, err := channelOf(c)
	if err == nil {
		err = c.s.exists(c.s.channels, arn)
	}
	if err != nil {
		return err
	}
	return c.reply(map[string]any{"ChannelInfo": map[string]any{
		"ChannelName": strings.Split(arn, "/")[1], "ChannelARN": arn, "ChannelStatus": "ACTIVE", "ChannelType": "SINGLE_MASTER", "Version": "v1",
	}})
}

func dataEndpoint(c *call) error {
	arn, err := streamOf(c)
	if err == nil {
		err = c.s.exists(c.s.streams, arn)
	}
	if err != nil {
		return err
	}
	return c.reply(map[string]string{"DataEndpoint": c.s.base})
}

func channelEndpoint(c *call) error {
	var in struct {
		SingleMasterChannelEndpointConfiguration struct {
			Protocols []string
			Role      string
		}
	}
	if err := c.decode(&in); err != nil {
		return err
	}
	arn, err := channelOf(c)
	if err == nil {
		err = c.s.exists(c.s.channels, arn)
	}
	if err != nil {
		return err
	}
	list := []map[string]string{}
	for _, protocol := range in.SingleMasterChannelEndpointConfiguration.Protocols {
		endpoint := c.s.base
		if protocol == "WSS" {
			endpoint = "ws" + strings.TrimPrefix(c.s.base, "http")
		}
		list = append(list, map[string]string{"Protocol": protocol, "ResourceEndpoint": endpoint})
	}
	return c.reply(map[string]any{"ResourceEndpointList": list})
}

// player is a playback session.
type player struct {
	arn     string
	expires time.Time
}

// stamps is a range of time in the JSON of AWS: seconds since 1970.
type stamps struct{ StartTimestamp, EndTimestamp float64 }

func (t *stamps) length() time.Duration {
	return time.Duration((t.EndTimestamp - t.StartTimestamp) * float64(time.Second))
}

// selector says which fragments are meant.
type selector struct {
	FragmentSelectorType string
	TimestampRange       *stamps
}

// session opens playback sessions of a protocol.
func session(protocol, path string) func(*call) error {
	return func(c *call) error {
		in := struct {
			PlaybackMode         string
			Expires              *int
			HLSFragmentSelector  *selector
			DASHFragmentSelector *selector
		}{PlaybackMode: "LIVE"}
		if err := c.decode(&in); err != nil {
			return err
		}
		chosen, life := in.HLSFragmentSelector, 300
		if protocol == "DASH" {
			chosen = in.DASHFragmentSelector
		}
		if in.Expires != nil {
			life = *in.Expires
		}
		ranged := chosen != nil && chosen.TimestampRange != nil
		switch {
		case life < 300 || life > 43200:
			return errArgument
		case in.PlaybackMode == "LIVE" && ranged:
			return errArgument
		case in.PlaybackMode != "LIVE" && (chosen == nil || chosen.FragmentSelectorType == "" || !ranged):
			return errArgument
		case in.PlaybackMode == "ON_DEMAND" && (chosen.TimestampRange.length() <= 0 || chosen.TimestampRange.length() > 24*time.Hour):
			return errArgument
		case in.PlaybackMode != "LIVE" && in.PlaybackMode != "LIVE_REPLAY" && in.PlaybackMode != "ON_DEMAND":
			return errArgument
		}
		arn, err := streamOf(c)
		if err == nil {
			err = c.s.exists(c.s.streams, arn)
		}
		if err != nil {
			return err
		}
		token := strings.ToLower(randomText(160))
		c.s.mu.Lock()
		c.s.players[token] = player{arn, c.s.opts.Now().Add(time.Duration(life) * time.Second)}
		c.s.mu.Unlock()
		return c.reply(map[string]string{protocol + "StreamingSessionURL": c.s.base + path + "?SessionToken=" + token})
	}
}

// watch is what a player gets by its session's address. There is no camera behind it, and
// it says so: to a browser by a page, to a player by a list without segments.
func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	p, ok := s.players[r.URL.Query().Get("SessionToken")]
	s.mu.Unlock()
	if !ok || !s.opts.Now().Before(p.expires) {
		http.Error(w, "The session is not known or over.", http.StatusForbidden)
		return
	}
	name := strings.Split(p.arn, "/")[1]
	switch {
	case strings.Contains(r.Header.Get("Accept"), "text/html"):
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!doctype html><title>Stand-in</title><p>Here Amazon Kinesis Video Streams would play the stream <b>%s</b>. This is its stand-in for demonstrations: it has no pictures.\n", name)
	case strings.HasSuffix(r.URL.Path, ".mpd"):
		w.Header().Set("Content-Type", "application/dash+xml")
		fmt.Fprintf(w, "<?xml version=\"1.0\"?>\n<!-- stand-in, stream %s: no pictures -->\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"static\" mediaPresentationDuration=\"PT0S\" minBufferTime=\"PT1S\" profiles=\"urn:mpeg:dash:profile:isoff-live:2011\"><Period/></MPD>\n", name)
	default:
		w.Header().Set("Content-Type", "application/vnd.apple.mpegurl")
		fmt.Fprintf(w, "#EXTM3U\n## stand-in, stream %s: no pictures\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-ENDLIST\n", name)
	}
}

// clip streams an MP4 file without pictures: as many bytes as a thrifty camera makes.
func clip(c *call) error {
	var in struct{ ClipFragmentSelector *selector }
	if err := c.decode(&in); err != nil {
		return err
	}
	if in.ClipFragmentSelector == nil || in.ClipFragmentSelector.TimestampRange == nil {
		return errArgument
	}
	length := in.ClipFragmentSelector.TimestampRange.length()
	if length <= 0 || length > 24*time.Hour {
		return errArgument
	}
	arn, err := streamOf(c)
	if err == nil {
		err = c.s.exists(c.s.streams, arn)
	}
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "video/mp4")
	c.w.Header().Set("X-Amzn-Requestid", randomText(16))
	var head bytes.Buffer
	box(&head, "ftyp", []byte("isom\x00\x00\x02\x00isomiso2avc1mp41"))
	box(&head, "free", []byte("stand-in, stream "+strings.Split(arn, "/")[1]))
	if _, err := c.w.Write(head.Bytes()); err != nil {
		return nil // the client has gone
	}
	c.s.mu.Lock()
	gate := c.s.gates["GetClip"]
	c.s.mu.Unlock()
	if gate != nil {
		_ = http.NewResponseController(c.w).Flush() // a writer that cannot is not slow
		select {
		case <-gate:
		case <-c.r.Context().Done():
		}
	}
	var second bytes.Buffer
	box(&second, "mdat", make([]byte, 4<<10))
	for ; length > 0; length -= time.Second {
		if _, err := c.w.Write(second.Bytes()); err != nil {
			return nil
		}
	}
	return nil
}

// box writes a box of an MP4 file. [ISO/IEC 14496-12 4.2]
func box(b *bytes.Buffer, kind string, content []byte) {
	_ = binary.Write(b, binary.BigEndian, uint32(8+len(content))) // a buffer takes everything
	b.WriteString(kind)
	b.Write(content)
}

// images answers with one grey picture.
func images(c *call) error {
	var in struct {
		StartTimestamp, EndTimestamp float64
		Format, ImageSelectorType    string
		SamplingInterval             *int
	}
	if err := c.decode(&in); err != nil {
		return err
	}
	span := (&stamps{in.StartTimestamp, in.EndTimestamp}).length()
	if span <= 0 || span > 300*time.Second || in.SamplingInterval != nil && *in.SamplingInterval < 200 || in.Format != "JPEG" && in.Format != "PNG" {
		return errArgument
	}
	arn, err := streamOf(c)
	if err == nil {
		err = c.s.exists(c.s.streams, arn)
	}
	if err != nil {
		return err
	}
	picture := image.NewGray(image.Rect(0, 0, 64, 36))
	for i := range picture.Pix {
		picture.Pix[i] = color.Gray{Y: 128}.Y
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, picture, nil); err != nil {
		return err
	}
	return c.reply(map[string]any{"Images": []map[string]any{{"TimeStamp": in.StartTimestamp, "ImageContent": b.Bytes()}}})
}
