// A viewer on AWS's own library: opens the address of the first argument, offers, and
// prints what it is answered; for videoclient_test.go. The library only looks whether
// channelARN, channelEndpoint and region are there.
'use strict'
globalThis.WebSocket = require('../node_modules/ws')
const { SignalingClient, Role } = require('../node_modules/amazon-kinesis-video-streams-webrtc')

const [url, clientId] = process.argv.slice(2)

function end (line, code) {
  console.log(line)
  process.exit(code)
}

const client = new SignalingClient({
  role: Role.VIEWER,
  clientId,
  region: 'not used',
  channelARN: 'not used',
  channelEndpoint: 'not used',
  requestSigner: { getSignedURL: async () => url }
})
client.on('open', () => client.sendSdpOffer({ type: 'offer', sdp: 'v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\n' }))
client.on('sdpAnswer', answer => end(`answer ${JSON.stringify(answer)}`, 0))
client.on('error', err => end(`error ${err && (err.message || (err.error && err.error.message))}`, 3))
setTimeout(() => end('nothing in 15 s', 4), 15000).unref()
client.open()
