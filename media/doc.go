// Package media is the domain of video: which stream and which signalling channel of
// Amazon Kinesis Video Streams belong to a device, who may watch them, and what they are
// given for it. It may use package registry and never the other domains.
//
// Nobody gets a key that is worth anything beyond one device and a few minutes: a person
// gets an opaque address of one stream or one channel, a device gets temporary
// credentials of its own. They are asked for at AWS at each request, never shared and
// never kept; what is kept is that they were given. [contracts A]
//
// gate.go is the one place that decides about every route, in the order of contracts
// A.3. playback.go is what people watch of a stream, viewer.go the live view, vend.go
// what devices are given. unshare.go tells a device to end a viewer who may not watch any
// more. The interface [Cloud] is AWS as this package needs it; partner/kvs implements it.
package media
