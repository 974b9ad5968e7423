/**
 * Known answers for the handshake: published test vectors of independent implementations of the Noise protocol
 * framework, for the four protocols that the channel can run. All bytes in hexadecimal.
 */
export interface NoiseVector {
  readonly protocol: string;
  readonly prologue: string;
  readonly presharedKey?: string;
  readonly initiatorStatic: string;
  readonly initiatorEphemeral: string;
  readonly responderStatic: string;
  readonly responderEphemeral: string;
  readonly handshakeHash?: string;
  /** The handshake's three messages, then transport messages; the initiator and the responder take turns. */
  readonly messages: readonly { readonly payload: string; readonly ciphertext: string }[];
}

export const NOISE_VECTORS: readonly NoiseVector[] = [
  {
    protocol: "Noise_XX_25519_AESGCM_SHA256",
    prologue: "4a6f686e2047616c74",
    initiatorStatic: "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
    initiatorEphemeral: "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
    responderStatic: "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
    responderEphemeral: "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
    handshakeHash: "1b7aefb1125762aa21a252890d00af54519638b76437444538f9a52f21e2e0dc",
    messages: [
      {
        payload: "4c756477696720766f6e204d69736573",
        ciphertext: "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79444c756477696720766f6e20" +
          "4d69736573",
      },
      {
        payload: "4d757272617920526f746862617264",
        ciphertext: "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843757117acceb05bd7a45733" +
          "bc22015c97a9d0cbaf41b80446d5988ff5127235d76b79eade70f473d6a4ef521fdcbeda5340d01e028ba7" +
          "93fc059f2724a83af05f12dda0448a7621a926b379a92477fd",
      },
      {
        payload: "462e20412e20486179656b",
        ciphertext: "c90f1cf77eba4e50edb038991565e36c9758943a989229b6051244dc4fbecb6946744b401af2ee1a5881b6" +
          "5fbb87fd07cb6a328ececc9ce6ce84c399dc332d4fd521fa4bb7f467ce909395",
      },
      {
        payload: "4361726c204d656e676572",
        ciphertext: "bc3fa77f6aca3e8466d7dc6bea10013e88a6a29add5132b461806c",
      },
      {
        payload: "4a65616e2d426170746973746520536179",
        ciphertext: "250b01074cdfe0df2ecf8ccbf1737b15a2ddb5b52fd9a396604e9c793cee3b3bb9",
      },
      {
        payload: "457567656e2042f6686d20766f6e2042617765726b",
        ciphertext: "449d4d433b3cdc3d02bf6fc881774b9df54366ebcffb9689bb13f14709822cd7ef42bcdb4d",
      },
    ],
  },
  {
    protocol: "Noise_XX_25519_ChaChaPoly_SHA256",
    prologue: "4a6f686e2047616c74",
    initiatorStatic: "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
    initiatorEphemeral: "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
    responderStatic: "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
    responderEphemeral: "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
    handshakeHash: "c8e5f64e846193be2a834104c2a009868d6c9f3bd3c186299888b488b2f1f58e",
    messages: [
      {
        payload: "4c756477696720766f6e204d69736573",
        ciphertext: "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79444c756477696720766f6e20" +
          "4d69736573",
      },
      {
        payload: "4d757272617920526f746862617264",
        ciphertext: "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f14480884381cbad1f276e038c48378f" +
          "fce2b65285e08d6b68aaa3629a5a8639392490e5b9bd5269c2f1e4f488ed8831161f19b7815528f8982ffe" +
          "09be9b5c412f8a0db50f8814c7194e83f23dbd8d162c9326ad",
      },
      {
        payload: "462e20412e20486179656b",
        ciphertext: "c7195ffacac1307ff99046f219750fc47693e23c3cb08b89c2af808b444850a80ae475b9df0f169ae80a89" +
          "be0865b57f58c9fea0d4ec82a286427402f113e4b6ae769a1d95941d49b25030",
      },
      {
        payload: "4361726c204d656e676572",
        ciphertext: "96763ed773f8e47bb3712f0e29b3060ffc956ffc146cee53d5e1df",
      },
      {
        payload: "4a65616e2d426170746973746520536179",
        ciphertext: "3e40f15f6f3a46ae446b253bf8b1d9ffb6ed9b174d272328ff91a7e2e5c79c07f5",
      },
      {
        payload: "457567656e2042f6686d20766f6e2042617765726b",
        ciphertext: "eb3f3515110702e047a6c9da4478b6ead94873c11c0f2d710ddb3f09fce024b3a58502ae3f",
      },
    ],
  },
  {
    protocol: "Noise_XXpsk3_25519_AESGCM_SHA256",
    prologue: "4a6f686e2047616c74",
    presharedKey: "54686973206973206d7920417573747269616e20706572737065637469766521",
    initiatorStatic: "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
    initiatorEphemeral: "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
    responderStatic: "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
    responderEphemeral: "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
    handshakeHash: "033c8317037cb66a83308d5ae57ebbbea254e7ef2267f296c40baa4beaae4fcc",
    messages: [
      {
        payload: "4c756477696720766f6e204d69736573",
        ciphertext: "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944ad6766e442bec99c94ff57" +
          "3cd5316da008cbcc1ebcf47fbe43991ed633bcbb75",
      },
      {
        payload: "4d757272617920526f746862617264",
        ciphertext: "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f14480884336a2439b0bafb5e97fee2c" +
          "19b6f9f741125f810ad98e7e9659c48ca3e19652d316d1121073a281e0402b7bc1acb476caa1e7308faad7" +
          "f75337b30f12435c98303cac63cac1d69ac11f2e1971e138ac",
      },
      {
        payload: "462e20412e20486179656b",
        ciphertext: "2504a7905dbd6a56820581eb314085df196fda55aa5e77745d61c0b526355733d5ee67b9a4f345be7dc7c6" +
          "583d3807626eb0f42c69388955ff0c9f35b03951129db18848a76f6a4d270022",
      },
      {
        payload: "4361726c204d656e676572",
        ciphertext: "b20ca762013411bc55d65fc7137a2e719d432cd549cb037f5e9c84",
      },
      {
        payload: "4a65616e2d426170746973746520536179",
        ciphertext: "6b10e774950e93bc7cc50f225a105e656eb418310c00c374a81c1452b48cb12000",
      },
      {
        payload: "457567656e2042f6686d20766f6e2042617765726b",
        ciphertext: "6d617e8fd817a630755b8dffdee52ad3c39964bdca895a56847fd5f1edb49d14f555cc314b",
      },
    ],
  },
  {
    protocol: "Noise_XXpsk3_25519_ChaChaPoly_SHA256",
    prologue: "4a6f686e2047616c74",
    presharedKey: "54686973206973206d7920417573747269616e20706572737065637469766521",
    initiatorStatic: "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
    initiatorEphemeral: "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
    responderStatic: "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
    responderEphemeral: "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
    handshakeHash: "a477edf6a131bbdb54707f6ea30eab6cd935d9b560f0e5fd1f053a95a99669fb",
    messages: [
      {
        payload: "4c756477696720766f6e204d69736573",
        ciphertext: "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944c9f5ff0e8079630cb7e270" +
          "c20bbf480821b77a384a645c71a2fd9b3db1c16a5f",
      },
      {
        payload: "4d757272617920526f746862617264",
        ciphertext: "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843b123def17f71e6ae8e57e0" +
          "e1dec5949c5f7415c6f33517398747d821a06dc23ad430aa1fd7381d46195c378a819fd574425462cbb2d4" +
          "ca339e738a0b7001dc91423fbf55a99af0c6f1df21012ceb2f",
      },
      {
        payload: "462e20412e20486179656b",
        ciphertext: "52187316111b118d4c060364f7b975dc0809b2590779aff2d63113c564f11744493384db7bf32d5ae6686d" +
          "f6ab06d508d2e07caaf1d6afc010b978735fc78900e71ae1d314130d042e729a",
      },
      {
        payload: "4361726c204d656e676572",
        ciphertext: "eaedc672d4c21e0e2955758756fb98f194c4e90d5deb5b6cf30b27",
      },
      {
        payload: "4a65616e2d426170746973746520536179",
        ciphertext: "522d543c5fe799d09a3d9da7ff54d0dc03c8af1dc7751d2ff708339d2290943e98",
      },
      {
        payload: "457567656e2042f6686d20766f6e2042617765726b",
        ciphertext: "7d4e2c3873eef6a213b04e72f9df60a91666072d3544c5d96c34a09e2329b5030bee796741",
      },
    ],
  },
  {
    protocol: "Noise_XX_25519_ChaChaPoly_SHA256",
    prologue: "5468657265206973206e6f20726967687420616e642077726f6e672e2054686572652773206f6e6c792066" +
      "756e20616e6420626f72696e672e",
    initiatorStatic: "7dec208517a3b81a2861d7a71266d5d6dc944c5a8816634a86fe63198a0148ee",
    initiatorEphemeral: "a32daf21e93c0131495ce1d903181fde81cc46937daaeb990bae7c992709421e",
    responderStatic: "4d0aed5098e3b4ef20357e9f686ce66204c792b358da2e475017d6c485304881",
    responderEphemeral: "4eece0f195d026db035ff987597c429d3ad3bcc2944df37d649528951b2a27c5",
    messages: [
      {
        payload: "d03c489139e645d0711a3c9e810d776b46a84912463fafa87b884eebf242dc34",
        ciphertext: "f9fa868ba97ab8a2686deccfaad5a484ee10a5bb85e3d1dce015a84797f92818d03c489139e645d0711a3c" +
          "9e810d776b46a84912463fafa87b884eebf242dc34",
      },
      {
        payload: "d8190a92f7dc0c93dbea9118ba8055751fb7c6590c416ffbd419964132b99a85",
        ciphertext: "8c4e6fdb7d09d501a86f7eca5c234522751706ed409182c05cdf5f827d4dae47b81c6c5f43b025692c2439" +
          "1eefee725c17d8cb0fbe3e4abb8aedf42c4fd2592d4ea48ac08989d6ae8b4adae08b2c34087c808c7aa55a" +
          "63c02b0fab9e930612336bd43eaea04d3c670a0a146691aa9cc9d357872320dc735dbc48580cffb553db",
      },
      {
        payload: "77891b19dcb92ef7c055b672c4a5aa7fdf1c84146b8b303459022729473ce254",
        ciphertext: "933ca6b5ed60df3df66121f0ab49a09e49efa45c613a86a3cecbf4c535cef2f83f72b42837b18e3572f2fd" +
          "c2b74c331e2368a545cef54bdca081678ab0e9dd5348122459e0c034c851984d88ce610963d43cde6cfe73" +
          "a67fbd5a63e8bfca96d0",
      },
      {
        payload: "d7efdf988072881941db045a42882433817555128fbf5663e56081712ec7d212",
        ciphertext: "54ef0ff0629e1aaa7685a2806ab111cba76b52331f2642276736f415868eacb69ab2577f3bda0cbf72f879" +
          "685f6ed25f",
      },
      {
        payload: "dd7bf01a588bafb52c6cfba952e5d8fe35cc2b3f92b4730ae2474615157345ce",
        ciphertext: "356be70f110306d5c699bb834bb9d58d909e325924dfbec972e406e6f294dc63e1daebefe8a62a334facc8" +
          "048ab4ad66",
      },
    ],
  },
  {
    protocol: "Noise_XX_25519_AESGCM_SHA256",
    prologue: "5468657265206973206e6f20726967687420616e642077726f6e672e2054686572652773206f6e6c792066" +
      "756e20616e6420626f72696e672e",
    initiatorStatic: "67a147237ca2e511a5328abf44fc049e725d23ac193f1d5e8da60d543670cd39",
    initiatorEphemeral: "b4dbfea92d1afb2ce4a508bd5e014d21ee95ced8d12346d226985d40b2da95e7",
    responderStatic: "0e64a9143ba4c2bb79a25cd1c12575a9da949b52338b32fe1208e4b598c9acc0",
    responderEphemeral: "c3142e465cafd8356330d7f910146c5428a524e723df165d76a2d5a697aa7e6d",
    messages: [
      {
        payload: "09f6721fa79e976f05d523c07e4818bfad6903108a05734e3163cec30442fcf5",
        ciphertext: "c8a324f41408be37f760130b5a8f2c4e9c92bab229e9b78007aa43b7c7656b3409f6721fa79e976f05d523" +
          "c07e4818bfad6903108a05734e3163cec30442fcf5",
      },
      {
        payload: "af62581a26fc31c4b722c1f04d73d845eb6daf35bcd64fc805a46a74bd747d90",
        ciphertext: "4e935a4c1dccaf91b78062590be1e790f984eeff2ab9a219e491387a99dbfe53b9ea4a0a1b78a30056a061" +
          "5ef4cfcc5d5bcfa087abd07df701c08b2410ab385c490a43cd853a15a1d1e8162c25b78d362ff84afd1f02" +
          "e0d0e8d25ada33fe5f8e8856cc49e9a896c1c10616508f52387ca29d35a037c7d1c968a45d07daf01667",
      },
      {
        payload: "bae081c11b0a050d08a48d4a2dd387bd927e18d12c1f2758ae712ec4e3948dc8",
        ciphertext: "72eb5f83ef7773b38886a657b2216368f76f51e90855aaec0c9cd65c7750c531b3ef8a9261065b9b73009e" +
          "698c3e0e1e7153c64e842d877db5f0953c2a43f12bdee99b360ebc11ee64a2989bf8f486a45267753caf35" +
          "ad5900224e9b04c4b5b2",
      },
      {
        payload: "062b027afab93baa74c7cdc1ac71b3486636bed142caec9f70f4dd672dbe120d",
        ciphertext: "9953df9aa4294b12364dd6896de6e705564a5583c67ed86f0b985054d63f4381bdb99faa8633893643d6ee" +
          "3ba987344f",
      },
      {
        payload: "3000ff396f68e4d00ac10c97a4c14e5901e3245dc29f9a801427babd59bfc2a3",
        ciphertext: "d9ea28203c96f5ac9024541d8f05e5e9bbfedccf701d2a2130ddeada49446a546d03c3ed440558782120b9" +
          "5e537a229e",
      },
    ],
  },
];
